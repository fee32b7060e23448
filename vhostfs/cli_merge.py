"""`vhostfs merge`: the bootstraps of an image's layers in, the bootstrap to mount out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.cli_build import add_prefetch_options, read_prefetch_list
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from vhostfs.cli_build import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "merge",
        help="merge the bootstraps of layers",
        description="Merge the bootstraps of an image's layers into the one that is mounted. Data blobs are "
        "not needed; the merged image refers to those that it still uses. Build the layers with "
        "--whiteout-spec none, so that what they remove is known here.",
    )
    parser.add_argument(
        "layers", metavar="BOOTSTRAP", type=Path, nargs="+", help="of each layer, the lowest first"
    )
    parser.add_argument(
        "--bootstrap", metavar="FILE", type=Path, required=True, help="merged metadata file to write"
    )
    parser.add_argument(
        "--whiteout-spec",
        choices=["oci", "overlayfs"],
        default="oci",
        help="how the layers say what they remove (default: %(default)s)",
    )
    add_prefetch_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Merge, print a summary to stdout and warnings and errors to stderr; return the exit status."""
    from rafs.build import BuildError, Whiteouts, merge_bootstraps

    try:
        prefetch = read_prefetch_list(args.prefetch_files) if args.prefetch_policy == "fs" else ()
        result = merge_bootstraps(
            args.layers, args.bootstrap, whiteouts=Whiteouts(args.whiteout_spec), prefetch=prefetch
        )
    except OSError as error:
        print(f"vhostfs merge: {error.filename!r}: {error.strerror}", file=sys.stderr)
        return 1
    except BuildError as error:
        print(f"vhostfs merge: {error}", file=sys.stderr)
        return 1
    for warning in result.warnings:
        print(f"vhostfs merge: warning: {warning}", file=sys.stderr)
    print(
        f"layers     {len(args.layers)} with {result.entry_count:,} entries, {result.inode_count:,} inodes, "
        f"{format_size(result.data_size)} of data"
    )
    print(f"bootstrap  {result.bootstrap_path}  {format_size(result.bootstrap_size)}")
    for blob_id in result.blob_ids:
        print(f"blob       {blob_id}")
    return 0
