"""`vhostfs export`: an image as one file that the kernel's EROFS mounts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.cli_image import add_image_arguments, byte_progress, opened_image, unwound_by_sigterm
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from vhostfs.cli_image import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "export",
        help="export an image to one EROFS file",
        description="Write an image, v5 or v6 and however compressed, as one uncompressed file that "
        "Linux mounts by itself: mount -t erofs -o ro,loop FILE DIR. Every chunk is verified on the way.",
    )
    add_image_arguments(parser, needs_blobs=True)
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="file to write")
    parser.add_argument("--jobs", metavar="N", type=int, help="threads (default: one a core)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and print what came of it."""
    from rafs.tools.export import export_erofs

    with (
        unwound_by_sigterm(),
        opened_image("export", args) as filesystem,
        byte_progress("exporting") as progress,
    ):
        result = export_erofs(filesystem, args.bootstrap, args.output, jobs=args.jobs, progress=progress)
    print(
        f"{result.path}  {format_size(result.size)}: {format_size(result.metadata_size)} of metadata, "
        f"{format_size(result.data_size)} of data in {result.chunks:,} chunks"
    )
    return 0
