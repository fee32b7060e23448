"""Where the blobs of `vhostfs serve` come from: a directory, or what a configuration of nydusd's says."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from rafs.backend.config import Backend, LocalFs, backend_of
from rafs.prefetch.options import PrefetchOptions
from vhostfs.defaults import default_cache_dir
from vhostfs.nydusd.config_parse import parse_config, read_config
from vhostfs.nydusd.config_served import served, without_effect
from vhostfs.prefetching import options_of

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """`prefetch` is None where nothing is to be fetched ahead."""

    backend: Backend
    cache_dir: Path
    prefetch: PrefetchOptions | None


def source_of(config: Path | None, blob_dir: Path | None) -> Source:
    """What --config or --blob-dir says. Raises ConfigError, OSError."""
    if config is None:
        backend = backend_of("localfs", LocalFs(dir=str(blob_dir)))
        return Source(backend, default_cache_dir(), PrefetchOptions())
    parsed, unknown = parse_config(read_config(config))
    if unknown:
        log.warning("%s: fields that are unknown here and ignored: %s", config, ", ".join(unknown))
    if names := without_effect(parsed):
        log.warning("%s: fields that have no effect here: %s", config, ", ".join(names))
    return Source(*served(parsed), options_of(parsed, ()))
