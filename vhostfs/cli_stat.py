"""`vhostfs stat`: how well images share and compress."""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.cli_image import opened_bootstrap, show_table, table_of
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rafs.image import Image
    from rafs.tools.stat import Statistics
    from vhostfs.cli_image import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "stat",
        help="how images share and compress",
        description="For each image and for all together: how much data there is, how much is stored once, "
        "what each adds to those before it, and what a chunk dictionary would save. Needs bootstraps only.",
    )
    parser.add_argument(
        "bootstraps",
        metavar="BOOTSTRAP",
        type=Path,
        nargs="+",
        help="metadata file of an image, oldest first",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at all and print."""
    from rafs.tools.stat import stat_images

    with _one_by_one(args.bootstraps) as images:
        result = stat_images(images)
    if args.json:
        print(json.dumps(asdict(result) | {"dictionary_saves": result.dictionary_saves}, indent=1))
    else:
        _print(result)
    return 0


@contextmanager
def _one_by_one(paths: list[Path]) -> Iterator[Iterator[tuple[str, Image]]]:
    """Open each image when its turn comes, and close it after."""

    def images() -> Iterator[tuple[str, Image]]:
        for path in paths:
            with opened_bootstrap("stat", path) as filesystem:
                yield str(path), filesystem.image

    yield images()


def _print(result: Statistics) -> None:
    table = table_of(
        "images", "image", "v", "#names", "#data", "#distinct", "#stored", "#new", "#new with dictionary"
    )
    for one in result.images:
        table.add_row(
            one.name,
            str(one.version),
            f"{one.names:,}",
            format_size(one.data_size),
            format_size(one.distinct_size),
            format_size(one.stored_size),
            format_size(one.new_stored_size),
            format_size(one.new_stored_size_with_dictionary),
        )
    show_table(table)
    share = result.stored_size / max(result.data_size, 1)
    print(
        f"{len(result.images):,} images in {result.blobs:,} blobs: {format_size(result.data_size)} of data, "
        f"{format_size(result.stored_size)} stored ({share:.1%}); "
        f"with a chunk dictionary {format_size(result.stored_size_with_dictionary)}, "
        f"{format_size(result.dictionary_saves)} less"
    )
