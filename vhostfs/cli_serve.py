"""`vhostfs serve`: one image on one vhost-user socket, in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

from rafs.limits import CacheLimits
from rafs.prefetch.options import PrefetchOptions
from vhostfs.options import (
    DEFAULT_MISS_TIMEOUT_S,
    DEFAULT_POLL_US,
    ServeOptions,
    default_cache_dir,
)
from vhostfs.sandbox_options import SandboxOptions, check_parts
from vhostfs.sandbox_options import add_arguments as add_sandbox_arguments
from vhostfs.sizes import parse_size
from virtqueue.offer import MAX_REQUEST_QUEUES

log = logging.getLogger(__name__)


def queue_count(text: str) -> int:
    """A number of request queues; raises ArgumentTypeError."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_REQUEST_QUEUES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_REQUEST_QUEUES}")
    return int(text)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command; `args.run(args)` serves and returns the exit status."""
    parser = subparsers.add_parser(
        "serve",
        help="serve an image to a virtual machine",
        description="The vhost-user back-end of a virtio-fs device that serves one RAFS image (v6 or v5). "
        "It waits for a VMM on the socket, serves it, and waits for the next one when it goes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", metavar="PATH", help="listen here (mode 0600; a stale socket is replaced)")
    where.add_argument("--fd", metavar="N", type=int, help="an inherited descriptor that listens already")
    parser.add_argument("--bootstrap", metavar="FILE", type=Path, required=True, help="the image's metadata")
    blobs = parser.add_mutually_exclusive_group(required=True)
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
    parser.add_argument(
        "--tag", help="the device's tag, for front-ends that ask the back-end for it (QEMU has its own)"
    )
    parser.add_argument(
        "--num-request-queues", metavar="N", type=queue_count, default=1, help="request queues, 1 to 64"
    )
    parser.add_argument(
        "--miss-timeout",
        metavar="S",
        type=float,
        default=DEFAULT_MISS_TIMEOUT_S,
        help="seconds that a guest's read waits for its chunks before it gets EIO",
    )
    parser.add_argument(
        "--poll",
        metavar="US",
        type=int,
        default=DEFAULT_POLL_US,
        help="microseconds that a queue is watched at most before its thread sleeps; 0: never",
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
    add_sandbox_arguments(parser)
    parser.set_defaults(run=run)


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


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop. 0: a clean end, 1: it could not begin, 2: options that do not fit."""
    sandbox = SandboxOptions.of(arguments)
    try:
        check_parts(sandbox.off)
    except ValueError as error:
        print(f"vhostfs serve: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=arguments.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # heavy: after the arguments are known to be good; and all of it: nothing can be imported in the sandbox
    from rafs.errors import CacheError
    from rafs.trace.errors import TraceError
    from vhostfs.agent.starter import Starter
    from vhostfs.daemon import serve
    from vhostfs.nydusd.errors import ConfigError
    from vhostfs.runtime import StartError, os_error_text
    from vhostfs.sandbox import apply_sandbox
    from vhostfs.sandbox_policy import SandboxError
    from vhostfs.sandbox_serve import serve_policy
    from vhostfs.serve_source import source_of
    from vhostfs.tracing import find_trace

    try:
        source = source_of(arguments.config, arguments.blob_dir)
        prefetch = prefetch_of(arguments, source.prefetch)
        trace = find_trace(arguments.trace, arguments.bootstrap)
    except ConfigError as error:
        print(f"vhostfs serve: {arguments.config}: {error}", file=sys.stderr)
        return 1
    except TraceError as error:
        print(f"vhostfs serve: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"vhostfs serve: {os_error_text(error)}", file=sys.stderr)
        return 1
    options = ServeOptions(
        socket=arguments.socket,
        listen_fd=arguments.fd,
        bootstrap=arguments.bootstrap,
        backend=source.backend,
        cache_dir=Path.cwd() / getattr(arguments, "cache_dir", source.cache_dir),
        tag=arguments.tag,
        num_request_queues=arguments.num_request_queues,
        miss_timeout_s=arguments.miss_timeout,
        poll_us=arguments.poll,
        statistics=arguments.statistics,
        prefetch=prefetch or (PrefetchOptions(files=()) if trace else None),
        trace=trace,
        trace_out=arguments.trace_out,
        cache_limits=CacheLimits(
            quota=arguments.cache_quota,
            min_free=arguments.cache_min_free,
            dedup=not arguments.no_cache_dedup,
        ),
    )
    try:
        policy = serve_policy(options, sandbox)
        # An agent of ours ends with us; one that is there already is used.
        starter = Starter.spawn(
            [options.cache_dir], ["--idle-timeout", "0", "--log-to-cache", *sandbox.words()]
        )
        report = apply_sandbox(policy)
        log.debug("sandbox: %s", report.as_json())
        serve(options, starter.start)
    except (CacheError, SandboxError, StartError) as error:
        print(f"vhostfs serve: {error}", file=sys.stderr)
        return 1
    return 0
