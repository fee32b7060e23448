"""Does anything slow hold up a hit on the same queue? Latency of 4 KiB hits, quiet and beside slow things.

One request queue; one hit at a time, of a file whose chunks are cached and in the page cache; and on the same
queue, beside them:

- nothing;
- Python stalled: a busy loop in the daemon's interpreter holds the GIL for longer than the measurement. A
  miss that waits all the while (see its worst latency) shows that no Python code ran;
- misses: eight reads in flight of chunks that a slow back-end delivers after 300 ms each;
- disk: eight reads in flight of chunks that are cached, on disk, and kept out of the page cache.

The last one also beside QEMU's C virtiofsd with the same file. Rounds take turns; percentiles are medians
over the rounds, the worst is the worst of all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench import backends, loadgen, tree
from bench.loadgen import Load, Result
from bench.place import WORK, BenchError, console, describe_machine
from rafs.image import Image as Bootstrap
from tests.guest.backend import Backend, BackendError, Image
from tests.guest.debian import PackageError

DELAY_S = 0.3
#: how often the cold file's pages are dropped again while they are being read
DROP_INTERVAL_S = 0.02
HIT = ["-f", "big", "-d", "d", "-W", "-w", "randread4k:1"]
MISSES = ["-b", "randread128k:8:mixed"]
ONE_MISS = ["-b", "randread128k:1:mixed"]
DISK = ["-b", "randread4k:8:mixed"]


@dataclass
class Row:
    """One kind of disturbance and what was seen, a result a round."""

    name: str
    run: Callable[[], tuple[Result, Load | None]]
    hits: list[Result] = field(default_factory=list)
    beside: list[Load] = field(default_factory=list)

    def measure(self) -> None:
        hit, background = self.run()
        self.hits.append(hit)
        if background:
            self.beside.append(background)


class Pages:
    """Byte ranges of a file that are to stay out of the page cache."""

    def __init__(self, path: Path, ranges: Sequence[tuple[int, int]]) -> None:
        self._path = path
        self._ranges = ranges

    @contextmanager
    def kept_out(self) -> Iterator[None]:
        """Written back, then dropped, over and over."""
        fd = os.open(self._path, os.O_RDONLY)
        done = threading.Event()
        os.fsync(fd)

        def drop() -> None:
            while True:
                for offset, length in self._ranges:
                    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
                if done.wait(DROP_INTERVAL_S):
                    return

        dropper = threading.Thread(target=drop)
        dropper.start()
        try:
            yield
        finally:
            done.set()
            dropper.join()
            os.close(fd)


def cached_pages(image: Image, cache_dir: Path, name: str) -> Pages:
    """Where the cache holds the chunks of one file of the image."""
    bootstrap = Bootstrap(image.bootstrap)
    try:
        nid = bootstrap.resolve(f"/{name}".encode())
        extents = list(bootstrap.extents(nid, 0, bootstrap.inode(nid).size))
    finally:
        bootstrap.close()
    (data,) = cache_dir.glob("*.blob.data")
    return Pages(data, _joined([(e.blob_offset, e.length) for e in extents]))


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    return joined


class Bench:
    """Runs one measurement at a time; each with a daemon of its own."""

    def __init__(self, image: Image, share: Path, seconds: float) -> None:
        self.image, self.share, self.seconds = image, share, seconds
        self.pool_runs = 0

    def measure(self, backend: Backend, *options: str) -> tuple[Result, Load | None]:
        pid = str(backend.process.pid)
        (line,) = loadgen.run(backend.socket, *HIT, "-s", str(self.seconds), "-p", pid, *options)
        return loadgen.parse_result(line)

    def vhostfs(self, *options: str, cold: bool = True, delay_s: float = 0.0) -> tuple[Result, Load | None]:
        """With the cold file's chunks absent, or all chunks cached and `cold`'s pages kept out."""
        cache = WORK / "cache-stall"
        if cold:
            shutil.rmtree(cache, ignore_errors=True)
        report = WORK / "stall-statistics.json"
        faults = ["--delay", str(delay_s), "--stall", str(self.seconds + 0.3), "--statistics", str(report)]
        daemon = backends.vhostfs(self.image, WORK, cache_dir=cache, module=["bench.faulty"], options=faults)
        with daemon as backend:
            pages: AbstractContextManager[None] = nullcontext()
            if not cold:
                self.fill(backend)
                pages = cached_pages(self.image, cache, "mixed").kept_out()
            with pages:
                seen = self.measure(backend, *options)
        if not cold:
            self.pool_runs += json.loads(report.read_text())["pool_runs"]
        return seen

    def fill(self, backend: Backend) -> None:
        loadgen.run(backend.socket, "-f", "mixed", "-d", "d", "-v", str(self.share))

    def virtiofsd(self, *options: str) -> tuple[Result, Load | None]:
        path = self.share / "mixed"
        pages = Pages(path, [(0, path.stat().st_size)])
        with backends.virtiofsd(self.share, WORK) as backend, pages.kept_out():
            return self.measure(backend, *options)

    def rows(self) -> list[Row]:
        return [
            Row("vhostfs: nothing", self.vhostfs),
            Row("vhostfs: Python stalled", lambda: self.vhostfs(*ONE_MISS, "-k", delay_s=0.02)),
            Row("vhostfs: misses of 300 ms", lambda: self.vhostfs(*MISSES, delay_s=DELAY_S)),
            Row("vhostfs: disk", lambda: self.vhostfs(*DISK, cold=False)),
            Row("virtiofsd: nothing", self.virtiofsd),
            Row("virtiofsd: disk", lambda: self.virtiofsd(*DISK)),
        ]


COLUMNS = ["hits/s", "p50 us", "p99 us", "worst us", "p99 / quiet", "beside /s", "its p50 us", "its worst us"]


def show(out: Console, rows: Sequence[Row]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("beside the hits")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    quiet: dict[str, float] = {}
    for row in rows:
        rate = statistics.median(hit.ops_per_s for hit in row.hits)
        p50 = statistics.median(hit.p50_us for hit in row.hits)
        p99 = statistics.median(hit.p99_us for hit in row.hits)
        worst = max(hit.worst_us for hit in row.hits)
        base = quiet.setdefault(row.name.split(":")[0], p99)
        cells = [f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", f"{worst:,.0f}", f"{p99 / base:.2f}"]
        if row.beside:
            cells.append(f"{statistics.median(load.ops_per_s for load in row.beside):,.0f}")
            cells.append(f"{statistics.median(load.p50_us for load in row.beside):,.0f}")
            cells.append(f"{max(load.worst_us for load in row.beside):,.0f}")
        table.add_row(row.name, *cells)
    out.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.stall", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of the file that is hit (256)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements, a row (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (2)")
    arguments = parser.parse_args(argv)
    out = console()
    try:
        bench = Bench(tree.image(arguments.size), tree.tree(arguments.size), arguments.seconds)
        out.print(f"[bold]Stalls[/] on {describe_machine()}")
        out.print(
            f"4 KiB hits, one at a time, {arguments.rounds} x {arguments.seconds} s a row, 1 request queue"
        )
        rows = bench.rows()
        for _ in range(arguments.rounds):
            for row in rows:
                row.measure()
        show(out, rows)
    except (BenchError, BackendError, PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    stalled = next(row for row in rows if "stalled" in row.name)
    if not all(b.worst_us > arguments.seconds * 1e6 for b in stalled.beside):
        print("a miss was answered while Python was stalled: the stall was none", file=sys.stderr)
        return 1
    out.print(f"reads handed to blocking threads in the disk row: {bench.pool_runs:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
