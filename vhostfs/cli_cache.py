"""`vhostfs cache`: what lies in a cache directory, what it takes, whether it is right; and room in it.

All of it may be used while daemons run. Figures of what a directory saved are those that its owner noted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhostfs.sizes import format_size, parse_size

if TYPE_CHECKING:
    from rafs.inventory import Inventory, StoredBlob
    from rafs.verify import BlobReport
    from vhostfs.cli_build import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser("cache", help="look at a cache directory, check it, make room in it")
    commands = parser.add_subparsers(dest="cache_command", metavar="COMMAND", required=True)

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("directory", metavar="DIR", type=Path, help="the cache directory")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=run)
        return command

    add("ls", _list, "list the blobs: how much of each is there, when it was used last, whether it is in use")
    add("du", _usage, "show what the files take on the disk by kind, and what the cache saved and gave up")
    gc = add("gc", _collect, "remove blobs that no daemon has open, least recently used first")
    gc.add_argument(
        "--older-than",
        metavar="HOURS",
        type=float,
        default=0.0,
        help="only if unused for so long",
    )
    gc.add_argument(
        "--down-to",
        metavar="SIZE",
        type=parse_size,
        default=0,
        help="stop when no more than that is left",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    verify = add("verify", _verify, "check the chunks on the disk against their digests; 1: some are corrupt")
    verify.add_argument(
        "--bootstrap",
        metavar="FILE",
        type=Path,
        help="check the blobs of this image, by what it says",
    )
    verify.add_argument(
        "--repair",
        action="store_true",
        help="have corrupt chunks fetched again; with no daemon in DIR",
    )


def _list(args: argparse.Namespace) -> int:
    from rafs.errors import RafsError
    from rafs.inventory import is_in_use, take_inventory

    try:
        found = take_inventory(args.directory)
        rows = [
            _row(args.directory, blob, in_use=is_in_use(args.directory, blob.blob_id))
            for blob in sorted(found.blobs.values(), key=lambda blob: -blob.last_used)
        ]
    except RafsError as error:
        return _fail("ls", error)
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    table = _table("blob", "chunks", "on disk", "of", "last used", "")
    for row in rows:
        chunks = "?" if row["chunks"] is None else f"{row['ready_chunks']}/{row['chunks']}"
        state = " ".join(name for name in ("in use", "unsynced") if row[name.replace(" ", "_")])
        used = datetime.fromtimestamp(row["last_used"], UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(
            row["blob_id"][:12],
            chunks,
            format_size(row["disk_bytes"]),
            format_size(row["size"]),
            used,
            state,
        )
    _print(table)
    return 0


def _row(directory: Path, blob: StoredBlob, *, in_use: bool) -> dict[str, Any]:
    from rafs.errors import RafsError
    from rafs.inventory import CHUNK_MAP, DATA, UNSYNCED
    from rafs.verify import ChunkMapFile, stored_chunks

    chunks: int | None = None
    ready = 0
    try:
        chunks = stored_chunks(directory, blob.blob_id).count
        chunk_map = ChunkMapFile(directory / f"{blob.blob_id}.{CHUNK_MAP}", chunks)
        ready = chunk_map.count_ready()
        chunk_map.close()
    except (RafsError, OSError):
        pass
    data = directory / f"{blob.blob_id}.{DATA}"
    return {
        "blob_id": blob.blob_id,
        "chunks": chunks,
        "ready_chunks": ready,
        "disk_bytes": blob.bytes,
        "size": data.stat().st_size if data.exists() else 0,
        "last_used": blob.last_used,
        "in_use": in_use,
        "unsynced": UNSYNCED in blob.files,
    }


def _usage(args: argparse.Namespace) -> int:
    from rafs.errors import RafsError
    from rafs.inventory import take_inventory
    from rafs.ledger import read_ledger

    try:
        found = take_inventory(args.directory)
        ledger = read_ledger(args.directory)
    except RafsError as error:
        return _fail("du", error)
    kinds = _by_kind(found)
    if args.json:
        print(json.dumps({"bytes": found.bytes, "by_kind": kinds, "since": ledger}, indent=1))
        return 0
    table = _table("what", "on disk")
    for kind, size in kinds.items():
        table.add_row(kind, format_size(size))
    table.add_row("all", format_size(found.bytes))
    _print(table)
    if ledger:
        table = _table("since the directory was made", "")
        for name, value in ledger.items():
            text = format_size(value) if name.endswith("_bytes") else f"{value:,}"
            table.add_row(name.removesuffix("_bytes").replace("_", " "), text)
        _print(table)
    return 0


def _by_kind(found: Inventory) -> dict[str, int]:
    kinds = {"data": 0, "chunk maps": 0, "metadata": 0, "other": found.other_bytes}
    for blob in found.blobs.values():
        for kind, size in blob.files.items():
            name = {"blob.data": "data", "blob.raw": "data", "blob.data.chunk_map": "chunk maps"}
            kinds[name.get(kind, "metadata")] += size
    return kinds


def _collect(args: argparse.Namespace) -> int:
    from rafs.errors import RafsError
    from rafs.inventory import is_in_use, remove_blob, take_inventory

    removed: list[dict[str, Any]] = []
    try:
        found = take_inventory(args.directory)
        left = found.bytes
        for blob in sorted(found.blobs.values(), key=lambda blob: blob.last_used):
            if left <= args.down_to or time.time() - blob.last_used < args.older_than * 3600:
                break
            if args.dry_run:
                is_removed = not is_in_use(args.directory, blob.blob_id)
            else:
                is_removed = remove_blob(args.directory, blob.blob_id)
            if is_removed:
                left -= blob.bytes
                removed.append({"blob_id": blob.blob_id, "bytes": blob.bytes})
    except RafsError as error:
        return _fail("gc", error)
    if args.json:
        print(json.dumps({"removed": removed, "bytes_left": left}, indent=1))
        return 0
    freed = format_size(sum(entry["bytes"] for entry in removed))
    verb = "would be removed" if args.dry_run else "removed"
    print(f"{len(removed)} of {len(found.blobs)} blobs {verb}, {freed}; {format_size(left)} left")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from rafs.cache_dir import CacheDir
    from rafs.errors import RafsError
    from rafs.image import ImageError
    from rafs.verify import repair

    try:
        reports = _reports(args)
        if args.repair and any(report.corrupt for report in reports):
            directory = CacheDir(args.directory)
            directory.join(owner=True)
            for report in reports:
                if report.corrupt:
                    repair(args.directory, report)
            directory.leave()
    except (RafsError, ImageError, OSError) as error:
        return _fail("verify", error)
    if args.json:
        print(json.dumps([asdict(report) for report in reports], indent=1))
    else:
        _print_reports(reports)
    is_bad = any(report.corrupt for report in reports)
    if is_bad and not args.json:
        print("the corrupt chunks are fetched again when they are wanted" if args.repair else _REMEDY)
    return 1 if is_bad else 0


_REMEDY = (
    "a daemon with the directory open finds and heals them in time; with none, use --repair, and they are "
    "fetched again when they are wanted"
)


def _reports(args: argparse.Namespace) -> list[BlobReport]:
    from rafs.errors import RafsError
    from rafs.image import Image
    from rafs.inventory import take_inventory
    from rafs.verify import BlobReport, StoredChunks, verify_blob, vouched_chunks

    wanted: dict[str, Any] = {}
    if args.bootstrap is None:
        wanted = dict.fromkeys(sorted(take_inventory(args.directory).blobs))
    else:
        image = Image(args.bootstrap)
        for index in range(image.blob_count):
            wanted[image.blob(index).blob_id] = (image, index)
    reports = []
    with _progress_bar(is_wanted=not args.json) as progress:
        for blob_id, known in wanted.items():
            try:
                chunks: StoredChunks | None = None
                if known is not None:
                    image, index = known
                    digests = image.chunk_digests(index) if image.version == 6 else None
                    chunks = vouched_chunks(args.directory, image.blob(index), digests)
                reports.append(verify_blob(args.directory, blob_id, chunks, progress))
            except (RafsError, OSError) as error:
                reports.append(BlobReport(blob_id, unverifiable=str(error)))
    return reports


def _print_reports(reports: list[BlobReport]) -> None:
    table = _table("blob", "ready", "checked", "bytes", "corrupt")
    for report in reports:
        corrupt = ", ".join(map(str, report.corrupt[:8])) + (" ..." if len(report.corrupt) > 8 else "")
        table.add_row(
            report.blob_id[:12],
            f"{report.ready:,}",
            f"{report.checked:,}",
            format_size(report.checked_bytes),
            report.unverifiable or corrupt or "none",
        )
    _print(table)


def _progress_bar(*, is_wanted: bool) -> Any:
    """A context manager that gives a function to be called with bytes; a bar on a terminal only."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TransferSpeedColumn

    @contextmanager
    def bar() -> Any:
        console = Console(stderr=True)
        if not is_wanted or not console.is_terminal:
            yield lambda size: None
            return
        columns = SpinnerColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=None)
            yield lambda size: progress.advance(task, size)

    return bar()


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number in (0, len(columns) - 1) else "right")
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _fail(command: str, error: Exception) -> int:
    print(f"vhostfs cache {command}: {error}", file=sys.stderr)
    return 2
