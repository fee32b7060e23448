"""`vhostfs trace`: record what a program reads of an image, look at it, merge, and keep it beside the image.

A trace is given to a start (`vhostfs serve --trace`), which prefetches in that order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhostfs.cli_build import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "trace",
        help="record what is read of an image, to prefetch it next time",
        description="Record the first accesses to an image (or use vhostfs serve --trace-out), look at what "
        "was recorded, merge the traces of several runs, and keep them beside the image in its registry.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    record = actions.add_parser(
        "record",
        help="record the reads of a mount of a running daemon",
        description="Record for some seconds, or until interrupted, then write the trace.",
    )
    record.add_argument("--api", metavar="SOCKET", type=Path, required=True, help="the daemon's API socket")
    record.add_argument("--mountpoint", metavar="PATH", default="/", help="of the image (default: /)")
    record.add_argument(
        "--seconds", metavar="S", type=float, help="how long (default: until SIGINT or SIGTERM)"
    )
    record.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the trace")
    record.set_defaults(run=run_record)
    show = actions.add_parser(
        "show",
        help="list the files of a trace in the order in which they were first read",
        description="List the files of a trace, in the order of their first access.",
    )
    show.add_argument("trace", metavar="TRACE", type=Path)
    show.add_argument("--bootstrap", metavar="FILE", type=Path, help="the image, for the names of files")
    show.add_argument(
        "--chunks", action="store_true", help="list every chunk: when, where, by which process, hit or miss"
    )
    show.set_defaults(run=run_show)
    merge = actions.add_parser(
        "merge",
        help="make one trace of those of several runs",
        description="Chunks come in the order of their median rank, each with how many runs read it.",
    )
    merge.add_argument("traces", metavar="TRACE", type=Path, nargs="+")
    merge.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the merged trace")
    merge.set_defaults(run=run_merge)
    push = actions.add_parser(
        "push",
        help="store a trace beside its image in a registry",
        description="The image stays as it is: the trace becomes an artifact that refers to it. Credentials "
        "are those of docker login.",
    )
    push.add_argument("trace", metavar="TRACE", type=Path)
    push.add_argument("image", metavar="IMAGE", help="such as registry.example/web:1")
    push.set_defaults(run=run_push)
    pull = actions.add_parser(
        "pull",
        help="fetch the trace beside an image in a registry",
        description="Fetch the newest trace that was pushed beside an image.",
    )
    pull.add_argument("image", metavar="IMAGE")
    pull.add_argument("--merge", action="store_true", help="merge all of them")
    where = pull.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", "--output", metavar="FILE", type=Path, help="the trace")
    where.add_argument(
        "--bootstrap", metavar="FILE", type=Path, help="the image: write beside it, where --trace auto looks"
    )
    pull.set_defaults(run=run_pull)


def run_record(args: argparse.Namespace) -> int:
    """0: written; 1: the daemon refused, or it could not be written."""

    def record() -> None:
        from vhostfs.trace_client import record
        from vhostfs.tracing import write_trace

        trace = record(args.api, args.mountpoint, args.seconds)
        write_trace(args.output, trace)
        print(f"{len(trace.accesses):,} chunks, {trace.dropped:,} dropped")

    return _reporting(record)


def run_show(args: argparse.Namespace) -> int:
    """0, or 1 for what is no trace or image."""

    def show() -> None:
        from rafs.image import Image
        from vhostfs.trace_tables import show
        from vhostfs.tracing import read_trace, sha256_of

        trace, image = read_trace(args.trace), None
        try:
            if args.bootstrap is not None:
                image = Image(args.bootstrap)
            is_same = image is not None and sha256_of(args.bootstrap) == trace.image_sha256
            show(trace, image, is_same_image=is_same, chunks=args.chunks)
        finally:
            if image is not None:
                image.close()

    return _reporting(show)


def run_merge(args: argparse.Namespace) -> int:
    """0, or 1 for what is no trace, or does not fit together."""

    def merge() -> None:
        from rafs.trace.merge import merge_traces
        from vhostfs.tracing import read_trace, write_trace

        merged = merge_traces([read_trace(path) for path in args.traces])
        write_trace(args.output, merged)
        sure = sum(access.runs == merged.runs for access in merged.accesses)
        print(f"{len(merged.accesses):,} chunks of {merged.runs} runs, {sure:,} of them read in every one")

    return _reporting(merge)


def run_push(args: argparse.Namespace) -> int:
    """0, or 1 when it could not be stored."""

    def push() -> None:
        from vhostfs.trace_remote import push
        from vhostfs.tracing import read_trace

        print(push(args.image, read_trace(args.trace)))

    return _reporting(push)


def run_pull(args: argparse.Namespace) -> int:
    """0, or 1 when there is none, or it could not be had."""

    def pull() -> None:
        from vhostfs.trace_remote import pull
        from vhostfs.tracing import AUTO, trace_path, write_trace

        trace = pull(args.image, merge=args.merge)
        write_trace(args.output or trace_path(AUTO, args.bootstrap), trace)
        print(f"{len(trace.accesses):,} chunks of {trace.runs} runs")

    return _reporting(pull)


def _reporting(work: Callable[[], None]) -> int:
    """Run it; what it raises is told in a line."""
    from rafs.errors import BuildError, RafsError
    from rafs.image import ImageError
    from rafs.trace.errors import TraceError
    from vhostfs.runtime import os_error_text

    try:
        work()
    except OSError as error:
        print(f"vhostfs trace: {os_error_text(error)}", file=sys.stderr)
        return 1
    except (BuildError, ImageError, RafsError, TraceError) as error:
        print(f"vhostfs trace: {error}", file=sys.stderr)
        return 1
    return 0
