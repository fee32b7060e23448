"""`vhostfs unpack`: an image as a directory or a tar archive."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.cli_image import add_image_arguments, byte_progress, opened_image, unwound_by_sigterm
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from rafs.filesystem import Filesystem
    from rafs.tools.unpack import UnpackResult
    from vhostfs.cli_image import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "unpack",
        help="unpack an image",
        description="Unpack an image into a new directory, or as a tar archive (PAX). Run as root to keep "
        "owners, devices and all attributes. Every chunk that has a digest is verified.",
    )
    add_image_arguments(parser, needs_blobs=True)
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--directory", metavar="DIR", type=Path, help="empty or new directory to unpack into")
    to.add_argument("--tar", metavar="FILE", help="archive to write; - is stdout")
    parser.add_argument(
        "--jobs", metavar="N", type=int, help="threads, for --directory (default: one a core)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Unpack, and print a summary to stderr; returns the exit status."""
    with (
        unwound_by_sigterm(),
        opened_image("unpack", args) as filesystem,
        byte_progress("unpacking") as progress,
    ):
        done, lock = 0, threading.Lock()

        def add(size: int) -> None:
            nonlocal done
            with lock:
                done += size
                progress(done, None)

        result = _unpack(args, filesystem, add)
    for warning in result.warnings:
        print(f"vhostfs unpack: warning: {warning}", file=sys.stderr)
    print(f"{result.names:,} names, {format_size(result.data_size)} of data", file=sys.stderr)
    return 0


def _unpack(args: argparse.Namespace, filesystem: Filesystem, add: Callable[[int], None]) -> UnpackResult:
    from rafs.tools.unpack import unpack_directory
    from rafs.tools.unpack_tar import unpack_tar

    if args.directory is not None:
        return unpack_directory(filesystem, args.directory, jobs=args.jobs, progress=add)
    if args.tar == "-":
        return unpack_tar(filesystem, sys.stdout.buffer, progress=add)
    path = Path(args.tar)
    try:
        with path.open("xb") as file:
            return unpack_tar(filesystem, file, progress=add)
    except FileExistsError:
        raise
    except BaseException:
        path.unlink(missing_ok=True)  # half an archive
        raise
