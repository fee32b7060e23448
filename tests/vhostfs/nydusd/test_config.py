"""nydusd's configuration in all its shapes: what it means, what is refused and how, what is never told."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafs.backend.config import LocalFs, Registry
from rafs.secret import Secret
from vhostfs.nydusd.config import Config, public_view
from vhostfs.nydusd.config_parse import MAX_SIZE, parse_config, read_config
from vhostfs.nydusd.errors import ConfigError

PASSWORD = "hunter2-very-secret"
AUTH = base64.b64encode(f"user:{PASSWORD}".encode()).decode()

#: what nydus-snapshotter writes and Kata hands on (contract 1.6)
LEGACY: dict[str, Any] = {
    "device": {
        "id": "/15",
        "backend": {
            "type": "registry",
            "config": {
                "readahead": False,
                "host": "registry.test",
                "repo": "library/alpine",
                "auth": AUTH,
                "scheme": "https",
                "proxy": {"fallback": True},
                "timeout": 5,
                "connect_timeout": 7,
                "retry_limit": 2,
            },
        },
        "cache": {"type": "blobcache", "config": {"work_dir": "/cache", "disable_indexed_map": False}},
    },
    "mode": "direct",
    "digest_validate": False,
    "enable_xattr": True,
    "fs_prefetch": {"enable": True, "prefetch_all": True, "threads_count": 8, "merging_size": 1048576},
}

#: what a person writes (contract 4.3), in JSON and in TOML
V2: dict[str, Any] = {
    "version": 2,
    "id": "x",
    "backend": {"type": "registry", "registry": {"scheme": "https", "host": "h", "repo": "r", "auth": AUTH}},
    "cache": {"type": "blobcache", "filecache": {"work_dir": "/cache"}, "prefetch": {"enable": False}},
    "rafs": {
        "mode": "direct",
        "batch_size": 1048576,
        "enable_xattr": True,
        "prefetch": {"enable": True, "threads": 8, "batch_size": 1048576, "prefetch_all": True},
    },
}
V2_TOML = f"""
version = 2
id = "x"

[backend]
type = "registry"

[backend.registry]
scheme = "https"
host = "h"
repo = "r"
auth = "{AUTH}"

[cache]
type = "blobcache"

[cache.filecache]
work_dir = "/cache"

[cache.prefetch]
enable = false

[rafs]
mode = "direct"
batch_size = 1048576
enable_xattr = true

[rafs.prefetch]
enable = true
threads = 8
batch_size = 1048576
prefetch_all = true
"""


def changed(original: dict[str, Any], path: str, value: Any) -> str:
    """The JSON of `original` with the field at `path` set, or taken away (...)."""
    changed = copy.deepcopy(original)
    *parents, last = path.split(".")
    target = changed
    for name in parents:
        target = target.setdefault(name, {})
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return json.dumps(changed)


def config_of(text: str) -> Config:
    return parse_config(text).config


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return str(caught.value)


def test_what_the_snapshotter_writes() -> None:
    config, unknown = parse_config(json.dumps(LEGACY))
    assert unknown == []
    assert config.id == "/15"
    assert config.backend is not None and config.cache is not None and config.rafs is not None
    registry = config.backend.section
    assert isinstance(registry, Registry)
    assert (registry.host, registry.repo, registry.scheme) == ("registry.test", "library/alpine", "https")
    assert registry.auth == Secret(AUTH)
    assert (registry.timeout, registry.connect_timeout, registry.retry_limit) == (5, 7, 2)
    assert not registry.proxy.url and registry.proxy.fallback
    assert config.cache.type == "blobcache"
    assert config.cache.filecache is not None and config.cache.filecache.work_dir == "/cache"
    assert config.rafs.enable_xattr and not config.rafs.validate
    assert config.rafs.prefetch == config.cache.prefetch
    prefetch = config.rafs.prefetch
    assert prefetch is not None and prefetch.enable and prefetch.prefetch_all and prefetch.threads == 8


def test_json_and_toml_mean_the_same() -> None:
    assert parse_config(json.dumps(V2)) == parse_config(V2_TOML)
    assert config_of(V2_TOML).backend == config_of(json.dumps(V2)).backend


def test_the_shapes_have_defaults_of_their_own() -> None:
    """Contract, gotcha 38."""
    legacy = config_of(
        json.dumps(
            {"device": {"backend": {"type": "localfs", "config": {"dir": "/blobs"}}}, "mode": "direct"}
        )
    )
    assert legacy.rafs is not None and legacy.rafs.prefetch is not None
    assert not legacy.rafs.prefetch.enable and legacy.rafs.prefetch.prefetch_all
    assert legacy.rafs.batch_size == 1 << 20
    assert legacy.cache is not None and legacy.cache.prefetch is None
    newer = config_of(changed(V2, "rafs.prefetch", {"enable": True}))
    assert newer.rafs is not None and newer.rafs.prefetch is not None
    assert not newer.rafs.prefetch.prefetch_all and newer.rafs.prefetch.threads == 8
    off = config_of(changed(LEGACY, "amplify_io", 0))
    assert off.rafs is not None and off.rafs.batch_size == 0


def test_a_directory_of_blobs() -> None:
    """As in Kata's design document."""
    local = {"dir": "/blobs", "alt_dirs": ["/more"], "readahead": True, "readahead_sec": 20}
    local["proxy"] = {"fallback": False}  # as the snapshotter writes for every kind
    config, unknown = parse_config(
        changed(LEGACY, "device.backend", {"type": "localfs", "config": local}).replace("library", "x")
    )
    assert unknown == []
    assert config.backend is not None
    assert config.backend.section == LocalFs(dir="/blobs", alt_dirs=["/more"])


def test_a_working_directory_is_never_assumed() -> None:
    config = config_of(changed(LEGACY, "device.cache.config", {}))
    assert config.cache is not None and config.cache.filecache is not None
    assert config.cache.filecache.work_dir == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            changed(LEGACY, "device.backend.config.timeout", "5"),
            "device.backend.config.timeout: expected `int`",
        ),
        (
            changed(LEGACY, "device.backend.config.timeout", -1),
            "device.backend.config.timeout: expected `int` >=",
        ),
        (changed(LEGACY, "device.backend.config.auth", 7), "device.backend.config.auth: expected `str`"),
        (changed(LEGACY, "device.backend.config.host", ...), "device.backend.config.host: must be given"),
        (changed(LEGACY, "device.backend.config.repo", ""), "device.backend.config.repo: must be given"),
        (changed(LEGACY, "device.backend.config.scheme", "ftp"), "device.backend.config.scheme: is none of"),
        (changed(LEGACY, "device.backend.type", "tape"), "device.backend.type: is none of"),
        (changed(LEGACY, "device.backend", {"type": "localfs"}), "device.backend.config: either 'dir' or"),
        (changed(LEGACY, "device.backend", ...), "device.backend: must be given"),
        (changed(LEGACY, "device.cache.config.work_dir", 1), "device.cache.config.work_dir: expected `str`"),
        (changed(LEGACY, "mode", ...), "mode: must be given"),
        (changed(LEGACY, "amplify_io", 1 << 40), "amplify_io: expected `int` <="),
        (changed(LEGACY, "fs_prefetch.threads_count", 0), "fs_prefetch.threads_count: must be 1 to 1024"),
        (changed(LEGACY, "enable_xattr", "yes"), "enable_xattr: expected `bool`"),
        (changed(V2, "version", 3), "version: must be 2"),
        (changed(V2, "version", True), "version: must be 2"),
        (changed(V2, "backend.registry", ...), "backend.registry: is missing"),
        (changed(V2, "backend.registry.host", ""), "backend.registry.host: must be given"),
        (changed(V2, "rafs.prefetch", {"threads": 3}), "rafs.prefetch.enable: must be given"),
        (changed(V2, "rafs.prefetch.threads", 9999), "rafs.prefetch.threads: must be 1 to 1024"),
        (
            changed(V2, "backend.registry.mirrors", [{"ping_url": ""}]),
            "backend.registry.mirrors[0].host: must be",
        ),
        ("[1, 2]", "the configuration is not an object"),
        ('{"version": 2', "the configuration is no JSON"),
        ("", "device: must be given"),
        ("version: 2", "the configuration is neither JSON"),
        (b'{"id": "\xff"}', "the configuration is no"),
        (b"id = '\xff'", "the configuration is not UTF-8"),
        ('{"device": ' * 90_000, "the configuration is nested too deeply"),
    ],
)
def test_a_refusal_names_the_field(text: str | bytes, message: str) -> None:
    assert refusal(text).startswith(message)


def test_a_null_counts_as_absent() -> None:
    assert config_of(changed(LEGACY, "device.backend.config.ca_cert_files", None)) == config_of(
        json.dumps(LEGACY)
    )
    assert refusal(changed(LEGACY, "mode", None)) == "mode: must be given"


def test_the_size_is_limited(tmp_path: Path) -> None:
    text = json.dumps(LEGACY)
    assert config_of(text.ljust(MAX_SIZE)) == config_of(text)
    assert "more than 1048576 bytes" in refusal(text.ljust(MAX_SIZE + 1))
    path = tmp_path / "config"
    path.write_text(text.ljust(MAX_SIZE + 1000))
    assert len(read_config(path)) == MAX_SIZE + 1
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(path)


def test_unknown_fields_are_told_by_their_path() -> None:
    original = copy.deepcopy(LEGACY)
    original["warmup"] = 1
    original["device"]["backend"]["config"]["mirrors"] = [{"host": "m", "weight": 3}]
    original["device"]["cache"]["config"]["color"] = {"deep": 1}
    assert parse_config(json.dumps(original)).unknown == [
        "device.backend.config.mirrors[0].weight",
        "device.cache.config.color",
        "warmup",
    ]


# What is secret


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("backend.registry.auth", PASSWORD),
        ("backend.registry.registry_token", PASSWORD),
        ("backend.registry.proxy", {"url": f"http://u:{PASSWORD}@proxy"}),
        ("backend.registry.mirrors", [{"host": "m", "headers": {"Authorization": PASSWORD}}]),
        ("backend.oss", {"endpoint": "e", "bucket_name": "b", "access_key_secret": PASSWORD}),
        ("backend.s3", {"region": "e", "bucket_name": "b", "access_key_id": PASSWORD}),
        ("backend.http-proxy", {"addr": f"http://u:{PASSWORD}@proxy"}),
        ("cache.filecache.encryption_key", PASSWORD),
        ("external_backends", [{"type": "x", "config": {"token": PASSWORD}}]),
    ],
)
def test_what_is_secret_is_shown_nowhere(path: str, value: Any) -> None:
    text = changed(V2, path, value)
    assert PASSWORD in text
    config = config_of(text)
    assert PASSWORD not in repr(config) and PASSWORD not in str(config)
    assert PASSWORD not in json.dumps(public_view(config))
    with pytest.raises(TypeError):
        msgspec.json.encode(config)


def test_the_public_view_has_the_rest() -> None:
    view = public_view(config_of(json.dumps(LEGACY)))
    assert view["version"] == 2 and view["id"] == "/15"
    assert view["backend"]["registry"]["host"] == "registry.test"
    assert "auth" not in view["backend"]["registry"] and "oss" not in view["backend"]
    assert view["cache"]["filecache"]["work_dir"] == "/cache"


def scalars() -> st.SearchStrategy[Any]:
    return st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5)


def paths(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [prefix]
    return [prefix] * bool(prefix) + [
        path for name, inner in value.items() for path in paths(inner, f"{prefix}.{name}".lstrip("."))
    ]


@settings(deadline=None)
@given(st.sampled_from([LEGACY, V2]), st.data())
def test_errors_show_no_values(original: dict[str, Any], data: st.DataObject) -> None:
    """Whatever is put wherever: it parses, or is refused by a sentence in which the value does not stand."""
    path = data.draw(st.sampled_from(paths(original)))
    value = data.draw(st.sampled_from([PASSWORD, [PASSWORD], {PASSWORD[:4]: PASSWORD}, {"type": PASSWORD}]))
    try:
        config, _ = parse_config(changed(original, path, value))
    except ConfigError as error:
        assert PASSWORD not in str(error)
        assert error.__cause__ is None and (error.__suppress_context__ or error.__context__ is None)
    else:
        assert isinstance(config, Config)


@settings(deadline=None)
@given(st.sampled_from([LEGACY, V2]), st.data())
def test_unknown_fields_change_nothing(original: dict[str, Any], data: st.DataObject) -> None:
    """Any field that nobody knows, at any level, is told of and has no effect."""
    objects = [path for path in paths(original) if isinstance(_at(original, path), dict)]
    where = data.draw(st.sampled_from(["", *objects]))
    name = "x_" + data.draw(st.text(st.characters(codec="utf-8", exclude_characters="."), max_size=8))
    value = data.draw(
        st.recursive(scalars(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
    )
    path = f"{where}.{name}".lstrip(".")
    config, unknown = parse_config(changed(original, path, value))
    assert config == config_of(json.dumps(original))
    assert unknown == ([] if value is None else [path])


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value[name]
    return value
