"""A trace as tables for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rafs.image import Image
from rafs.trace.format import Trace
from rafs.trace.report import FileReads, files_of
from vhostfs.sizes import format_size


def show(trace: Trace, image: Image | None, *, is_same_image: bool, chunks: bool) -> None:
    """Print what the trace is of, and its files or chunks."""
    console = Console(highlight=False, soft_wrap=True)
    files = files_of(trace, image)
    for line in _summary(trace, files):
        console.print(line, markup=False)
    if image is not None and not is_same_image:
        console.print("The trace is of another bootstrap than this one: names may be wrong.", markup=False)
    console.print(_chunk_table(trace, files) if chunks else _file_table(trace, files))


def _summary(trace: Trace, files: list[FileReads]) -> list[str]:
    asked = sum(access.length for access in trace.accesses)
    missed = sum(access.missed for access in trace.accesses)
    when = datetime.fromtimestamp(trace.started_at_s, UTC)
    lines = [
        f"{trace.runs} run{'s' if trace.runs > 1 else ''}, {when:%Y-%m-%d %H:%M:%S} UTC, "
        f"{trace.duration_ns / 1e9:.1f} s",
        f"{len(trace.accesses):,} chunks of {len(files):,} files, {format_size(asked)} asked for first, "
        f"{missed:,} chunks waited for",
    ]
    if trace.dropped:
        lines.append(f"{trace.dropped:,} accesses found no room and are missing")
    return lines


def _name(file: FileReads) -> Text:
    return Text(file.path.decode(errors="backslashreplace") if file.path else f"nid {file.nid}")


def _file_table(trace: Trace, files: list[FileReads]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("first ms", "chunks", "missed", "asked for", "of"):
        table.add_column(name, justify="right")
    if trace.runs > 1:
        table.add_column("runs", justify="right")
    table.add_column("file")
    for file in files:
        cells: list[str | Text] = [
            f"{file.first_ns / 1e6:.1f}",
            str(len(file.accesses)),
            str(file.missed),
            format_size(file.asked_bytes),
            format_size(file.size) if file.path else "",
        ]
        if trace.runs > 1:
            cells.append(f"{max(access.runs for access in file.accesses) / trace.runs:.0%}")
        table.add_row(*cells, _name(file))
    return table


def _chunk_table(trace: Trace, files: list[FileReads]) -> Table:
    names = {file.nid: _name(file) for file in files}
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("ms", "chunk", "offset", "bytes", "runs", "pid", "uid"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("file")
    for access in trace.accesses:
        table.add_row(
            f"{access.time_ns / 1e6:.1f}",
            f"{access.blob_index}:{access.chunk_index}",
            str(access.file_offset),
            str(access.length),
            str(access.runs),
            str(access.pid),
            str(access.uid),
            "miss" if access.missed else "hit",
            names[access.nid],
        )
    return table
