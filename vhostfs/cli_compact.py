"""`vhostfs compact`: fewer, fuller blobs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.cli_image import FAILED, add_image_arguments, byte_progress, opened_image, unwound_by_sigterm
from vhostfs.sizes import format_size, parse_size

if TYPE_CHECKING:
    from vhostfs.cli_image import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "compact",
        help="rebuild blobs that are little used or small",
        description="Write an image anew, whose blobs hold what its files use: chunks of blobs that are "
        "little used, or small, go into one new blob, as they are stored. The old files stay.",
    )
    add_image_arguments(parser, needs_blobs=True)
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="bootstrap to write")
    parser.add_argument(
        "--output-blob-dir", metavar="DIR", type=Path, help="for the new blob (default: the first --blob-dir)"
    )
    parser.add_argument(
        "--min-used-ratio",
        metavar="PERCENT",
        type=_percent,
        default="50",
        help="rebuild a blob of which files use less (default: %(default)s)",
    )
    parser.add_argument(
        "--min-blob-size",
        metavar="SIZE",
        type=parse_size,
        default="10MiB",
        help="rebuild blobs with less chunk data, if there are two or more (default: %(default)s)",
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="threads (default: one a core)")
    parser.set_defaults(run=run)


def _percent(text: str) -> float:
    if not text.isdecimal() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 100")
    return int(text) / 100


def run(args: argparse.Namespace) -> int:
    """Compact, and print what became of each blob."""
    from rafs.tools.compact import CompactOptions, compact_image

    options = CompactOptions(args.min_used_ratio, args.min_blob_size)
    blob_dir = args.output_blob_dir or next(iter(args.blob_dir), None)
    if blob_dir is None:
        print("vhostfs compact: with --config, name a folder by --output-blob-dir", file=sys.stderr)
        return FAILED
    with (
        unwound_by_sigterm(),
        opened_image("compact", args) as filesystem,
        byte_progress("compacting") as progress,
    ):
        result = compact_image(
            filesystem, args.bootstrap, args.output, blob_dir, options, jobs=args.jobs, progress=progress
        )
    for blob in result.blobs:
        used = f"{format_size(blob.used_size)} of {format_size(blob.size)} used"
        print(f"{blob.fate:8} {blob.blob_id}  {used}")
    if result.new_blob:
        print(f"new      {result.new_blob}  {format_size(result.new_blob_size)}")
    return 0
