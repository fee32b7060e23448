"""The older shape of nydusd's configuration (device/backend/cache), and what it is in the newer one.

It is what nydus-snapshotter writes and Kata hands on. Its defaults are not those of `version: 2` everywhere:
`prefetch_all` is on, `mode` must be given, prefetching is off (contract 4.3, 5.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from msgspec import Struct

from rafs.backend.config import SECTIONS, Backend, BackendType, Count, backend_of, section_problems
from vhostfs.nydusd.config import (
    MIB,
    BatchSize,
    Cache,
    CacheType,
    Config,
    ExternalBackend,
    FileCache,
    FsCache,
    Prefetch,
    Rafs,
)
from vhostfs.nydusd.errors import ConfigError

T = TypeVar("T")
#: (raw value, type, path of the value) -> the typed value; raises ConfigError
Convert = Callable[[Any, type[T], str], T]


class LegacyBackend(Struct, kw_only=True, frozen=True):
    type: BackendType
    config: dict[str, Any] = {}


class LegacyCache(Struct, kw_only=True, frozen=True):
    type: CacheType = ""
    compressed: bool = False
    validate: bool = False
    config: dict[str, Any] = {}


class LegacyDevice(Struct, kw_only=True, frozen=True):
    backend: LegacyBackend
    id: str = ""
    cache: LegacyCache = LegacyCache()
    external_backends: list[ExternalBackend] = []


class LegacyPrefetch(Struct, kw_only=True, frozen=True):
    enable: bool = False
    threads_count: Count = 8
    merging_size: BatchSize = MIB
    bandwidth_rate: Count = 0
    prefetch_all: bool = True
    stream_prefetch: bool = False
    trace: str = ""


class LegacyConfig(Struct, kw_only=True, frozen=True):
    device: LegacyDevice
    mode: Literal["direct", "cached"]
    digest_validate: bool = False
    enable_xattr: bool = False
    iostats_files: bool = False
    access_pattern: bool = False
    latest_read_files: bool = False
    amplify_io: BatchSize = MIB
    fs_prefetch: LegacyPrefetch = LegacyPrefetch()


def translate(legacy: LegacyConfig, convert: Callable[[Any, Any, str], Any]) -> Config:
    """The same configuration in the newer shape. `convert` raises ConfigError, and so does this."""
    prefetch = _prefetch(legacy.fs_prefetch)
    return Config(
        version=2,
        id=legacy.device.id,
        backend=_backend(legacy.device.backend, convert),
        external_backends=legacy.device.external_backends,
        cache=_cache(legacy.device.cache, prefetch if prefetch.enable else None, convert),
        rafs=Rafs(
            mode=legacy.mode,
            batch_size=legacy.amplify_io,
            validate=legacy.digest_validate,
            enable_xattr=legacy.enable_xattr,
            iostats_files=legacy.iostats_files,
            access_pattern=legacy.access_pattern,
            latest_read_files=legacy.latest_read_files,
            prefetch=prefetch,
        ),
    )


def free_sections(legacy: LegacyConfig) -> Mapping[str, tuple[dict[str, Any], type[Struct]]]:
    """The parts whose type depends on another field, by path: what stands there and what it should be.

    The snapshotter writes fields of all kinds of back-ends into each: those of other kinds are left out.
    """
    kind = SECTIONS[legacy.device.backend.type]
    of_others = {name for other in SECTIONS.values() for name in other.__struct_fields__}
    of_others -= set(kind.__struct_fields__)
    config = {name: value for name, value in legacy.device.backend.config.items() if name not in of_others}
    cache = FsCache if legacy.device.cache.type == "fscache" else FileCache
    return {
        "device.backend.config": (config, kind),
        "device.cache.config": (legacy.device.cache.config, cache),
    }


def _backend(legacy: LegacyBackend, convert: Callable[[Any, Any, str], Any]) -> Backend:
    kind: BackendType = legacy.type
    path = "device.backend.config"
    section = convert(legacy.config, SECTIONS[kind], path)
    for name, sentence in section_problems(section):
        raise ConfigError(f"{path}.{name}: {sentence}" if name else f"{path}: {sentence}")
    return backend_of(kind, section)


def _cache(legacy: LegacyCache, prefetch: Prefetch | None, convert: Callable[[Any, Any, str], Any]) -> Cache:
    path = "device.cache.config"
    is_fscache = legacy.type == "fscache"
    return Cache(
        type=legacy.type,
        compressed=legacy.compressed,
        validate=legacy.validate,
        filecache=None if is_fscache else convert(legacy.config, FileCache, path),
        fscache=convert(legacy.config, FsCache, path) if is_fscache else None,
        prefetch=prefetch,
    )


def _prefetch(legacy: LegacyPrefetch) -> Prefetch:
    return Prefetch(
        enable=legacy.enable,
        threads=legacy.threads_count,
        batch_size=legacy.merging_size,
        bandwidth_limit=legacy.bandwidth_rate,
        prefetch_all=legacy.prefetch_all,
        stream_prefetch=legacy.stream_prefetch,
        trace=legacy.trace,
    )
