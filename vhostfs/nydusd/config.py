"""nydusd's configuration as it is used here: the fields of `version: 2`, typed, with their defaults.

The older shape (device/backend/cache) is translated into this one by `config_legacy.py`; both are read by
`config_parse.py`. Names and defaults are the contract's (5.5). Sizes are bytes, times seconds. Credentials
are `Secret`s. What is checked here does not depend on whether we can serve it: that is said at mount.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, to_builtins

from rafs.backend.config import Backend, Count, backend_problems
from rafs.secret import Secret
from vhostfs.sizes import size_of

MIB = 1 << 20
MAX_BATCH_SIZE = 256 * MIB
MAX_THREADS = 1024

BatchSize = Annotated[int, Meta(ge=0, le=MAX_BATCH_SIZE)]


class FileCache(Struct, kw_only=True, frozen=True):
    """`work_dir` is empty when it was not given: nydusd's default, the current directory, is never wanted."""

    work_dir: str = ""
    disable_indexed_map: bool = False
    enable_encryption: bool = False
    enable_convergent_encryption: bool = False
    encryption_key: Secret = Secret("")
    #: ours: bytes or a text with a unit. What all files of the directory may take, and what is left free
    quota: int | str = 0
    min_free: int | str = 0
    #: ours: take chunks from other blobs of the directory that have them
    dedup: bool = True


class FsCache(Struct, kw_only=True, frozen=True):
    work_dir: str = ""


class Prefetch(Struct, kw_only=True, frozen=True):
    """`trace` is ours: a file with what an earlier run read, or "auto" (vhostfs/tracing.py)."""

    enable: bool
    trace: str = ""
    threads: Count = 8
    batch_size: BatchSize = MIB
    bandwidth_limit: Count = 0
    prefetch_all: bool = False
    stream_prefetch: bool = False


CacheType = Literal["blobcache", "filecache", "fscache", "dummycache", ""]


class Cache(Struct, kw_only=True, frozen=True):
    type: CacheType = ""
    compressed: bool = False
    validate: bool = False
    filecache: FileCache | None = None
    fscache: FsCache | None = None
    prefetch: Prefetch | None = None


class Rafs(Struct, kw_only=True, frozen=True):
    mode: Literal["direct", "cached"] = "direct"
    batch_size: BatchSize = MIB
    validate: bool = False
    enable_xattr: bool = False
    iostats_files: bool = False
    access_pattern: bool = False
    latest_read_files: bool = False
    prefetch: Prefetch | None = None


class Overlay(Struct, kw_only=True, frozen=True):
    upper_dir: str
    work_dir: str


class ExternalBackend(Struct, kw_only=True, frozen=True):
    """A back-end for some blobs only. What is in `config` depends on its type, and may be secret."""

    type: str
    patch: dict[str, Any] = {}
    config: dict[str, Secret] = {}


class Config(Struct, kw_only=True, frozen=True):
    version: Literal[2]
    id: str = ""
    backend: Backend | None = None
    external_backends: list[ExternalBackend] = []
    cache: Cache | None = None
    rafs: Rafs | None = None
    overlay: Overlay | None = None


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """What is wrong with it beyond its types: (path of the field, sentence)."""
    if config.backend is not None:
        for path, sentence in backend_problems(config.backend):
            yield f"backend.{path}", sentence
    for path, prefetch in (
        ("rafs.prefetch", config.rafs and config.rafs.prefetch),
        ("cache.prefetch", config.cache and config.cache.prefetch),
    ):
        if prefetch and prefetch.enable and not 1 <= prefetch.threads <= MAX_THREADS:
            yield f"{path}.threads", f"must be 1 to {MAX_THREADS}"
    if config.cache is not None and (files := config.cache.filecache) is not None:
        for name in ("quota", "min_free"):
            try:
                size_of(str(getattr(files, name)))
            except ValueError as error:
                yield f"cache.filecache.{name}", str(error)


def public_view(config: Config) -> dict[str, Any]:
    """The configuration as JSON has it, without what is secret and what was left out."""
    view: dict[str, Any] = _pruned(to_builtins(config, enc_hook=lambda secret: None))
    return view


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(inner) for name, inner in value.items() if inner is not None}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value
