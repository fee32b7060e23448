"""What of a configuration is served here: its back-end and its cache, or a sentence that says why not."""

from __future__ import annotations

from pathlib import Path

from rafs.backend.config import Backend, Remote
from rafs.limits import CacheLimits
from vhostfs.nydusd.config import Config
from vhostfs.nydusd.config_paths import cache_path
from vhostfs.nydusd.errors import ConfigError
from vhostfs.sizes import size_of


def served(config: Config) -> tuple[Backend, Path]:
    """The back-end and the cache directory of a configuration. Raises ConfigError for what is not served."""
    if config.backend is None:
        raise ConfigError("the configuration has no back-end: 'backend' (or 'device.backend') must be given")
    if config.overlay is not None:
        raise ConfigError("overlay: the configuration asks for an overlay, which is not served")
    cache = config.cache
    if cache is None or cache.type not in ("blobcache", "filecache"):
        kind = "none" if cache is None or not cache.type else repr(cache.type)
        raise ConfigError(f"cache type {kind}: an image needs a cache of type 'blobcache'")
    files = cache.filecache
    if files is not None and (files.enable_encryption or files.enable_convergent_encryption):
        raise ConfigError("the configuration asks for an encrypted cache, which is not served")
    return config.backend, cache_path(config)


def cache_limits(config: Config) -> CacheLimits:
    """What the cache directory of a configuration may take of its disk."""
    files = config.cache.filecache if config.cache is not None else None
    if files is None:
        return CacheLimits()
    return CacheLimits(
        quota=size_of(str(files.quota)) or None,
        min_free=size_of(str(files.min_free)),
        dedup=files.dedup,
    )


def without_effect(config: Config) -> list[str]:
    """Paths of fields that are switched on and change nothing here.

    External back-ends are for blobs with data outside of RAFS; an image that has some is refused by itself.
    """
    backend, rafs, cache = config.backend, config.rafs, config.cache
    section = backend.section if backend is not None else None
    switches: dict[str, object] = {
        "external_backends": config.external_backends,
        "rafs.iostats_files": rafs and rafs.iostats_files,
        "rafs.access_pattern": rafs and rafs.access_pattern,
        "rafs.latest_read_files": rafs and rafs.latest_read_files,
        "cache.compressed": cache and cache.compressed,
        "cache.filecache.disable_indexed_map": cache
        and cache.filecache
        and cache.filecache.disable_indexed_map,
    }
    if backend is not None and isinstance(section, Remote):
        path = f"backend.{backend.type}.proxy.dragonfly_scheduler_endpoint"
        switches[path] = section.proxy.dragonfly_scheduler_endpoint
    return [path for path, is_on in switches.items() if is_on]
