"""`vhostfs inspect`: what an image says of itself, as tables or JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vhostfs.cli_image import FAILED, add_image_arguments, opened_image, show_table, table_of
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from rafs.filesystem import Filesystem
    from rafs.tools.inspect import ImageFacts, PathFacts
    from vhostfs.cli_image import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what is in an image",
        description="Show the super block, the blobs, what kinds of files there are and what is prefetched; "
        "or one path with its chunks; or the chunks of one blob. Only chunks of v6 need data blobs.",
    )
    add_image_arguments(parser, needs_blobs=False)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--path", metavar="PATH", help="show this path of the image and where its data lies")
    what.add_argument("--chunks", metavar="BLOB", help="list the chunks of a blob: its index, or its id")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was asked for; returns the exit status."""
    from rafs.tools.inspect import inspect_image, inspect_path

    with opened_image("inspect", args) as filesystem:
        if args.path is not None:
            facts = inspect_path(filesystem, args.path)
            _print_json(asdict(facts)) if args.json else _print_path(facts)
        elif args.chunks is not None:
            return _print_chunks(args, filesystem)
        else:
            image = inspect_image(filesystem.image)
            _print_json(image.as_json()) if args.json else _print_image(image)
    return 0


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1))


def _print_image(facts: ImageFacts) -> None:
    print(f"RAFS v{facts.version}, metadata {format_size(facts.bootstrap_size)}: {', '.join(facts.flags)}")
    print(
        f"{facts.names:,} names of {facts.inodes:,} inodes ({facts.hard_links:,} more hard links), "
        f"{format_size(facts.data_size)} of data in chunks of up to {format_size(facts.chunk_size)}"
    )
    print(", ".join(f"{count:,} {kind}" for kind, count in facts.kinds.items()))
    blobs = table_of(
        "blobs", "", "id", "codec", "digest", "#chunks", "#used", "#stored", "#plain", "features"
    )
    for blob in facts.blobs:
        blobs.add_row(
            str(blob.index),
            blob.blob_id,
            blob.compressor,
            blob.digester,
            f"{blob.chunk_count:,}",
            f"{blob.used_chunks:,}",
            format_size(blob.compressed_size),
            format_size(blob.uncompressed_size),
            " ".join(blob.features),
        )
    show_table(blobs)
    for path in facts.prefetch:
        print(f"prefetch  {path}")


def _print_path(facts: PathFacts) -> None:
    when = _time(facts.mtime)
    print(f"{facts.mode} {facts.links} {facts.uid}:{facts.gid} {facts.size:,} {when} {facts.path}")
    print(f"inode {facts.inode}" + (f", to {facts.target}" if facts.target else ""))
    if facts.rdev:
        print(f"device {facts.rdev >> 8 & 0xFFF}:{facts.rdev & 0xFF | facts.rdev >> 12 & 0xFFF00}")
    if facts.kind == "directories":
        print(f"{facts.children:,} entries")
    for name, value in facts.xattrs.items():
        print(f"xattr  {name} = 0x{value}")
    if facts.chunks:
        chunks = table_of("chunks", "#at", "#size", "blob", "#chunk", "#stored at", "#stored size", "digest")
        for chunk in facts.chunks:
            chunks.add_row(
                str(chunk.file_offset),
                str(chunk.size),
                chunk.blob_id[:16] or "hole",
                str(chunk.chunk_index),
                str(chunk.compressed_offset),
                str(chunk.compressed_size),
                chunk.digest[:16],
            )
        show_table(chunks)


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}"


def _print_chunks(args: argparse.Namespace, filesystem: Filesystem) -> int:
    from rafs.tools.inspect import chunks_of_blob

    ids = [filesystem.image.blob(index).blob_id for index in range(filesystem.image.blob_count)]
    index = (
        ids.index(args.chunks) if args.chunks in ids else int(args.chunks) if args.chunks.isdecimal() else -1
    )
    if not 0 <= index < len(ids):
        print(f"vhostfs inspect: the image has no blob {args.chunks!r}, it has {len(ids)}", file=sys.stderr)
        return FAILED
    chunks = chunks_of_blob(filesystem, index)
    if args.json:
        _print_json([asdict(chunk) for chunk in chunks])
        return 0
    table = table_of(ids[index], "#chunk", "#stored at", "#stored size", "#at", "#size", "digest")
    for chunk in chunks:
        table.add_row(
            str(chunk.index),
            str(chunk.compressed_offset),
            str(chunk.compressed_size),
            str(chunk.uncompressed_offset),
            str(chunk.uncompressed_size),
            chunk.digest,
        )
    show_table(table)
    return 0
