"""Text to `Config`: JSON in both shapes, TOML in the newer one.

Errors name the field by its path in the shape that was given, and never show a value. A null counts as
absent. Unknown fields are tolerated on every level, and their paths returned, to be warned of.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rafs.backend.config import decode_secret
from vhostfs.nydusd.config import Config, problems
from vhostfs.nydusd.config_legacy import LegacyConfig, free_sections, translate
from vhostfs.nydusd.errors import ConfigError

MAX_SIZE = 1 << 20
#: always present in what nydus-snapshotter writes, and without a meaning since long
OBSOLETE = frozenset({"readahead", "readahead_sec"})

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")

_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


class Parsed(NamedTuple):
    """A configuration, and the paths of the fields in its text that nobody knows."""

    config: Config
    unknown: list[str]


def parse_config(text: str | bytes) -> Parsed:
    """Parse and check a configuration of at most MAX_SIZE bytes. Raises ConfigError."""
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MAX_SIZE:
        raise ConfigError(f"the configuration has more than {MAX_SIZE} bytes")
    try:
        raw = _without_nulls(_load(data))
        if not isinstance(raw, dict):
            raise ConfigError("the configuration is not an object; it begins with '{' (JSON) or is TOML")
        return _parse_v2(raw) if "version" in raw else _parse_legacy(raw)
    except RecursionError:
        raise ConfigError("the configuration is nested too deeply") from None


def read_config(path: Path) -> str:
    """The text of a file, for parse_config: of a larger one, as much as that needs to refuse it.

    Raises OSError and ConfigError.
    """
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError("the configuration is not UTF-8") from None


def convert(raw: Any, kind: Any, path: str) -> Any:
    """`raw`, as decoded from text, as a `kind`. Raises ConfigError naming the field below `path`."""
    try:
        return msgspec.convert(raw, kind, dec_hook=decode_secret)
    except msgspec.ValidationError as error:
        raise ConfigError(_sentence(str(error), path)) from None


def _load(data: bytes) -> Any:
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise ConfigError(f"the configuration is no JSON: {error}") from None
        except UnicodeDecodeError:
            raise ConfigError("the configuration is not UTF-8") from None
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise ConfigError("the configuration is not UTF-8") from None
    except tomllib.TOMLDecodeError:
        # its text shows pieces of the file
        raise ConfigError("the configuration is neither JSON (it does not begin with '{') nor TOML") from None


def _parse_v2(raw: dict[str, Any]) -> Parsed:
    if raw["version"] != 2 or isinstance(raw["version"], bool):
        raise ConfigError("version: must be 2, or be left out with the fields device and mode")
    config: Config = convert(raw, Config, "")
    for path, sentence in problems(config):
        raise ConfigError(f"{path}: {sentence}")
    return Parsed(config, sorted(_unknown_fields(raw, Config, "")))


def _parse_legacy(raw: dict[str, Any]) -> Parsed:
    legacy: LegacyConfig = convert(raw, LegacyConfig, "")
    config = translate(legacy, convert)
    for path, sentence in problems(config):
        # of the back-end's section nothing is left to find: it was checked under its own name
        raise ConfigError(f"{path.replace('rafs.prefetch.threads', 'fs_prefetch.threads_count')}: {sentence}")
    unknown = list(_unknown_fields(raw, LegacyConfig, ""))
    for path, (section, kind) in free_sections(legacy).items():
        unknown += _unknown_fields(section, kind, path)
    return Parsed(config, sorted(unknown))


def _sentence(error: str, path: str) -> str:
    """msgspec's words without the values that some of them quote, led by the path of the field."""
    below = ""
    if match := _AT.search(error):
        below, error = match["path"], error[: match.start()]
    if match := _MISSING.fullmatch(error):
        below, error = f"{below}.{match['name']}".lstrip("."), "must be given"
    error = re.sub(r"^Invalid enum value .*$", "is none of the values that nydusd knows", error)
    where = f"{path}.{below}" if path and below and not below.startswith("[") else path + below
    return f"{where}: {error[:1].lower()}{error[1:]}" if where else error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _unknown_fields(raw: Any, kind: Any, path: str) -> Iterator[str]:
    """Paths below `path` of the fields in `raw` that the type `kind` does not have."""
    if isinstance(raw, list):
        for index, inner in enumerate(raw):
            yield from _unknown_fields(inner, kind, f"{path}[{index}]")
        return
    struct = _struct_in(kind)
    if struct is None or not isinstance(raw, dict):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for name, inner in raw.items():
        below = f"{path}.{name}" if path else str(name)
        if name in fields:
            yield from _unknown_fields(inner, fields[name], below)
        elif name not in OBSOLETE:
            yield below


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct in `kind`: itself, an optional one, or that of a list."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if typing.get_origin(kind) in (list, types.UnionType, typing.Union):
        return next((found for inner in typing.get_args(kind) if (found := _struct_in(inner))), None)
    return None
