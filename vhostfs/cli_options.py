"""The options of whatever serves one image, to a guest (`serve`) or on this host (`mount`)."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rafs.backend.config import Backend
from rafs.limits import CacheLimits
from rafs.prefetch.options import PrefetchOptions
from vhostfs.defaults import DEFAULT_MISS_TIMEOUT_S, default_cache_dir
from vhostfs.options import ServeOptions
from vhostfs.sizes import parse_size


def add_source_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Where blobs come from, and the cache."""
    blobs = parser.add_mutually_exclusive_group(required=required)
    blobs.add_argument(
        "--blob-dir", metavar="DIR", type=Path, help="where its data blobs lie, named by their ids"
    )
    blobs.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="a configuration of nydusd's (JSON or TOML) that says where its data blobs come from",
    )
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        type=Path,
        default=argparse.SUPPRESS,
        help=f"where fetched chunks are kept (default: what --config says, else {default_cache_dir()})",
    )
    parser.add_argument(
        "--cache-quota",
        metavar="SIZE",
        type=parse_size,
        help="what the cache directory may take of its disk: bytes, or with KiB, MiB, GiB or TiB",
    )
    parser.add_argument(
        "--cache-min-free",
        metavar="SIZE",
        type=parse_size,
        default=0,
        help="what is to stay free on the disk of the cache, whoever fills it",
    )
    parser.add_argument(
        "--no-cache-dedup",
        action="store_true",
        help="fetch a chunk even if another blob in the cache directory has it",
    )


def add_daemon_options(parser: argparse.ArgumentParser) -> None:
    """Waiting, prefetching, traces, statistics and the log."""
    parser.add_argument(
        "--miss-timeout",
        metavar="S",
        type=float,
        default=DEFAULT_MISS_TIMEOUT_S,
        help="seconds that a guest's read waits for its chunks before it gets EIO",
    )
    parser.add_argument(
        "--statistics", metavar="FILE", type=Path, help="write counters as JSON here at the end"
    )
    parser.add_argument(
        "--prefetch",
        choices=("none", "hints", "all"),
        default=argparse.SUPPRESS,
        help="what to fetch in the background before it is read: nothing; what the image's own table "
        "or --prefetch-files names; that first and then all the rest "
        "(default: what --config says, else hints)",
    )
    parser.add_argument(
        "--prefetch-files",
        metavar="FILE",
        type=Path,
        help="a list of absolute paths in the image, one a line, instead of the image's table",
    )
    parser.add_argument(
        "--trace",
        metavar="FILE|auto",
        default="",
        help="what an earlier run read (vhostfs trace): that is prefetched first, in the same order; "
        "auto: the file beside the bootstrap that has its name and .trace",
    )
    parser.add_argument(
        "--trace-out",
        metavar="FILE",
        type=Path,
        help="record what is read, and write it here at the end",
    )
    parser.add_argument(
        "--prefetch-bandwidth",
        metavar="SIZE",
        type=parse_size,
        default=0,
        help="bytes a second that prefetching may use (KiB, MiB, GiB); 0: what the link has to spare",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="what to log"
    )


def prefetch_of(arguments: argparse.Namespace, configured: PrefetchOptions | None) -> PrefetchOptions | None:
    """What is to be fetched ahead: what the options say goes first.

    Raises OSError for a list that cannot be read.
    """
    from vhostfs.prefetching import read_file_list

    kind = getattr(arguments, "prefetch", None)
    if kind == "none" or (kind is None and configured is None):
        return None
    base = configured or PrefetchOptions()
    return replace(
        base,
        files=read_file_list(arguments.prefetch_files) if arguments.prefetch_files else base.files,
        everything=base.everything if kind is None else kind == "all",
        bandwidth_limit=arguments.prefetch_bandwidth or base.bandwidth_limit,
    )


def serve_options(
    arguments: argparse.Namespace, bootstrap: Path, backend: Backend | None = None, **transport: Any
) -> ServeOptions:
    """What the options make of one image. `backend`: where its blobs are if the options do not say.

    Raises ConfigError about --config, TraceError, OSError.
    """
    from vhostfs.serve_source import Source, source_of
    from vhostfs.tracing import find_trace

    if backend is not None and arguments.config is None and arguments.blob_dir is None:
        source = Source(backend, default_cache_dir(), PrefetchOptions())
    else:
        source = source_of(arguments.config, arguments.blob_dir)
    trace = find_trace(arguments.trace, bootstrap)
    prefetch = prefetch_of(arguments, source.prefetch)
    return ServeOptions(
        bootstrap=bootstrap,
        backend=source.backend,
        cache_dir=Path.cwd() / getattr(arguments, "cache_dir", source.cache_dir),
        miss_timeout_s=arguments.miss_timeout,
        statistics=arguments.statistics,
        prefetch=prefetch or (PrefetchOptions(files=()) if trace else None),
        trace=trace,
        trace_out=arguments.trace_out,
        cache_limits=CacheLimits(
            quota=arguments.cache_quota,
            min_free=arguments.cache_min_free,
            dedup=not arguments.no_cache_dedup,
        ),
        **transport,
    )


def begin_logging(arguments: argparse.Namespace) -> None:
    """To stderr, as --log-level says."""
    logging.basicConfig(
        level=arguments.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
