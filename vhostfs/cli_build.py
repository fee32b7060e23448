"""`vhostfs build`: a directory in, a RAFS bootstrap and data blob out.

Here are the options, the progress bar and the summary; the work is `rafs.build`. Heavy modules are
imported when the command runs, not when its parser is made.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rafs.build import BuildResult, Progress

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_SIZE = re.compile(r"(\d+)\s*(?:([kmg])(?:ib)?|b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_size(text: str) -> int:
    """Return bytes for "4096", "64KiB", "64k", "1MiB", "1M"; else raise argparse.ArgumentTypeError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write bytes, or a number with KiB, MiB or GiB"
        )
    return int(match.group(1)) * _UNITS[(match.group(2) or "").lower()]


def format_size(size: float) -> str:
    """Return `size` bytes for a person: "5 B", "1.5 MiB"."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "build",
        help="build a RAFS image from a directory",
        description="Build a RAFS v6 image from a directory: one metadata file (bootstrap) and one data "
        "blob, named by its SHA-256. The same directory gives the same bytes. Existing "
        "files are replaced only by complete ones.",
    )
    parser.add_argument("source", metavar="SOURCE", help="directory to build from; must not change meanwhile")
    parser.add_argument(
        "--bootstrap", metavar="FILE", type=Path, required=True, help="metadata file to write"
    )
    parser.add_argument(
        "--blob-dir",
        metavar="DIR",
        type=Path,
        required=True,
        help="directory for the data blob, made if missing",
    )
    parser.add_argument(
        "--compressor",
        choices=["none", "lz4_block", "zstd"],
        default="lz4_block",
        help="of chunks; with none the blob also serves as an EROFS device (default: %(default)s)",
    )
    parser.add_argument(
        "--digester", choices=["blake3", "sha256"], default="blake3", help="of chunks (default: %(default)s)"
    )
    parser.add_argument(
        "--chunk-size",
        metavar="SIZE",
        type=parse_size,
        default="1MiB",
        help="a power of two, 4096 to 16MiB; bytes, or with KiB or MiB (default: %(default)s)",
    )
    parser.add_argument(
        "--fs-version", type=int, choices=[6], default=6, help="RAFS version (default: %(default)s)"
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="threads (default: one a core)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, print a summary to stdout and warnings and errors to stderr; return the exit status."""
    from rafs.build import BuildError, BuildOptions, build_image

    options = BuildOptions(args.compressor, args.digester, args.chunk_size, args.jobs)
    started = time.monotonic()
    try:
        with _unwound_by_sigterm(), _progress_bar() as progress:
            result = build_image(os.fsencode(args.source), args.bootstrap, args.blob_dir, options, progress)
    except BuildError as error:
        print(f"vhostfs build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vhostfs build: interrupted, nothing written", file=sys.stderr)
        return 128 + signal.SIGINT
    for warning in result.warnings:
        print(f"vhostfs build: warning: {warning}", file=sys.stderr)
    print(summarize(result, args.chunk_size, time.monotonic() - started))
    return 0


def summarize(result: BuildResult, chunk_size: int, seconds: float) -> str:
    """Return the lines that a successful build ends with."""
    rate = result.data_size / max(seconds, 1e-3)
    lines = [
        f"source     {result.entry_count:,} entries, {result.inode_count:,} inodes, "
        f"{format_size(result.data_size)} of data, in {seconds:.1f} s ({format_size(rate)}/s)",
        f"bootstrap  {result.bootstrap_path}  {format_size(result.bootstrap_size)}",
    ]
    if result.blob is None:
        return "\n".join([*lines, "blob       none: no file has data"])
    repeated = result.data_size - result.distinct_size
    share = result.blob.size / result.data_size
    lines += [
        f"chunks     {result.chunk_count:,} of up to {format_size(chunk_size)}, "
        f"{result.blob.chunk_count:,} distinct, {format_size(repeated)} stored once only",
        f"blob       {result.blob_path}  {format_size(result.blob.size)}, {share:.1%} of the data",
    ]
    return "\n".join(lines)


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary files go, as Ctrl-C does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Show a bar on stderr while the body runs, if stderr is a terminal; yield what to report to."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("scanning", total=None)

        class Reporter:
            def scanned(self, entries: int) -> None:
                bars.update(task, description=f"scanning, {entries:,} entries")

            def packed(self, done: int, total: int | None) -> None:
                bars.update(task, description="packing", completed=done, total=total)

        yield Reporter()
