"""How fast are cold reads? Chunks fetched from a local directory, verified, cached and handed to the guest.

A file of real programs' bytes is read once through an empty cache, in order, eight reads of 128 KiB in
flight, for each compressor. Beside it the same chunks in a plain loop with the same libraries: read and
decompress (the limit of one CPU), and the same with digests and the write to a file (all that the cache must
do). The blob is in the page cache for all. CPU seconds are of the daemon and its agent; their peak memory
counts the guest memory that was written to. Data is compared in a run of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from bench import backends, loadgen, process, tree
from bench.place import WORK, BenchError, console, describe_machine
from native import rafs_v6
from rafs.blob_record import BlobRecord
from rafs.codec import chunk_digest, decode_chunk
from rafs.codes import Compressor, Digester
from rafs.image import Image as Bootstrap
from tests.guest.backend import BackendError, Image
from tests.guest.debian import PackageError

FILE = "mixed"
SIZE_MIB = 256  # of the other file in the tree that bench.hits and bench.stall read
COMPRESSORS = ["none", "lz4_block", "zstd"]


@dataclass(frozen=True)
class Stored:
    """One chunk as it lies in the blob."""

    offset: int
    stored_size: int
    size: int
    compressor: Compressor


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float
    peak_rss: int = 0


def chunks_of(image: Image) -> tuple[Path, list[Stored]]:
    """The chunks of FILE, in order, and the blob that holds them."""
    bootstrap = Bootstrap(image.bootstrap)
    try:
        nid = bootstrap.resolve(f"/{FILE}".encode())
        blob = BlobRecord.parse(bootstrap.blob_record(0))
        records = {r.chunk_index: r for r in map(bootstrap.chunk_record, range(bootstrap.chunk_record_count))}
        used = [records[e.chunk_index] for e in bootstrap.extents(nid, 0, bootstrap.inode(nid).size)]
        stored = []
        for record in used:
            plain = not record.flags & rafs_v6.RAFS_CHUNK_COMPRESSED
            how = Compressor.NONE if plain else blob.compressor
            stored.append(
                Stored(record.compressed_offset, record.compressed_size, record.uncompressed_size, how)
            )
    finally:
        bootstrap.close()
    (path,) = image.blob_dir.iterdir()
    return path, stored


def plain_loop(path: Path, chunks: Sequence[Stored], scratch: Path | None) -> Cost:
    """Read and decompress; with `scratch` also digest, and write there."""
    blob = os.open(path, os.O_RDONLY)
    out = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if scratch else -1
    started, cpu = time.monotonic(), time.process_time()
    for chunk in chunks:
        stored = os.pread(blob, chunk.stored_size, chunk.offset)
        plain = decode_chunk(stored, compressor=chunk.compressor, size=chunk.size)
        if scratch:
            chunk_digest(plain, Digester.BLAKE3)
            os.write(out, plain)
    cost = Cost(time.monotonic() - started, time.process_time() - cpu)
    os.close(blob)
    if scratch:
        os.close(out)
        scratch.unlink()
    return cost


def cold_read(image: Image, share: Path, *, verify: bool = False) -> Cost:
    """One pass over FILE by a daemon with an empty cache."""
    cache = WORK / "cache-cold"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    with backends.agent(cache) as agent, backends.vhostfs(image, WORK, cache_dir=cache) as backend:
        pid = backend.process.pid
        if verify:
            loadgen.run(backend.socket, "-f", FILE, "-d", "d", "-v", share)
            return Cost(0, 0)
        options = ["-f", FILE, "-d", "d", "-1", "-w", "seqread128k:8", "-p", str(pid)]
        before = process.cpu_s(agent)
        (result,) = loadgen.measure(backend.socket, *options)
        cpu_s = result.cpu_us_per_op * result.operations / 1e6 + process.cpu_s(agent) - before
        cost = Cost(result.seconds, cpu_s, process.peak_rss(pid) + process.peak_rss(agent))
    shutil.rmtree(cache)
    return cost


COLUMNS = ["MB/s", "chunks/s", "cpu s", "peak MB", "stored MB", "speed / decode", "cpu / decode", "cpu / all"]
LABELS = {"vhostfs": "vhostfs, {}", "decode": "  loop: read, decode", "all": "  loop: and digest, write"}


def add_rows(table: Table, compressor: str, chunks: Sequence[Stored], costs: dict[str, list[Cost]]) -> None:
    size = sum(chunk.size for chunk in chunks)
    walls = {name: statistics.median(cost.wall_s for cost in of) for name, of in costs.items()}
    cpus = {name: statistics.median(cost.cpu_s for cost in of) for name, of in costs.items()}
    for name, label in LABELS.items():
        wall, cpu = walls[name], cpus[name]
        cells = [f"{size / wall / 1e6:,.0f}", f"{len(chunks) / wall:,.0f}", f"{cpu:.2f}"]
        if name == "vhostfs":
            cells.append(f"{max(cost.peak_rss for cost in costs[name]) / 1e6:,.0f}")
            cells.append(f"{sum(chunk.stored_size for chunk in chunks) / 1e6:,.0f}")
            cells.append(f"{walls['decode'] / wall:.2f}")
            cells += [f"{cpu / cpus['decode']:.2f}", f"{cpu / cpus['all']:.2f}"]
        table.add_row(label.format(compressor), *cells)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cold", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="measurements, a row (3)")
    arguments = parser.parse_args(argv)
    out = console()
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    try:
        out.print(f"[bold]Cold reads[/] on {describe_machine()}")
        share = tree.tree(SIZE_MIB)
        size = (share / FILE).stat().st_size
        out.print(f"file of {size / 1e6:.0f} MB, {arguments.rounds} passes a row, taking turns; medians")
        for compressor in COMPRESSORS:
            image = tree.image(SIZE_MIB, compressor)
            path, chunks = chunks_of(image)
            cold_read(image, share, verify=True)
            costs: dict[str, list[Cost]] = {name: [] for name in LABELS}
            for _ in range(arguments.rounds):
                costs["vhostfs"].append(cold_read(image, share))
                costs["decode"].append(plain_loop(path, chunks, None))
                costs["all"].append(plain_loop(path, chunks, WORK / "scratch"))
            add_rows(table, compressor, chunks, costs)
    except (BenchError, BackendError, PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    out.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
