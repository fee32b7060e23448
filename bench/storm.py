"""Does a storm on a shared directory hold up the image? Kata has one request queue for both.

Latency of 4 KiB hits of an image, one at a time, and of its look-ups, on the one request queue of
vhostfs-nydusd; beside them on that queue nothing, or a storm on the shared directory:

- fsync: writers that make each 4 KiB durable;
- writes of 128 KiB;
- copies of 1 MiB by COPY_FILE_RANGE;
- cold reads of a file that is kept out of the page cache;
- all of them;
- all of them, made by a process of the host: what the machine itself costs, with no queue in common.

Rounds take turns; percentiles are medians over the rounds, the worst is the worst of all. The goal is a p99
within twice the quiet one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench import backends, disturb, loadgen, tree
from bench.loadgen import Load, Result
from bench.place import WORK, BenchError, console, describe_machine
from bench.stall import Pages
from tests.guest.backend import BackendError
from tests.guest.debian import PackageError

GOAL = 2.0
HITS = ["randread4k:1", "lookupdir:1", "seqread128k:1"]
FSYNC = ["-b", "writefsync:4:containers/synced"]
WRITE = ["-b", "write128k:2:containers/written"]
COPY = ["-b", "copy1m:2:containers/copied"]
COLD = ["-b", "randread128k:4:containers/cold"]
BY_HOST = "all, by the host"
STORMS: dict[str, list[str]] = {
    "nothing": [],
    "fsync": FSYNC,
    "writes": WRITE,
    "copies": COPY,
    "cold reads": COLD,
    "all": [*FSYNC, *WRITE, *COPY, *COLD],
    BY_HOST: [],
}


@dataclass
class Row:
    """What was seen of a workload beside a storm, a result a round."""

    hits: list[Result] = field(default_factory=list)
    beside: list[list[Load]] = field(default_factory=list)

    def p(self, name: str) -> float:
        values: list[float] = [getattr(hit, name) for hit in self.hits]
        return max(values) if name == "worst_us" else statistics.median(values)


def make_share(size_mib: int) -> Path:
    share = WORK / "storm"
    shutil.rmtree(share, ignore_errors=True)
    share.mkdir(parents=True)
    for name in ("synced", "written", "copied", "cold"):
        shutil.copyfile(tree.tree(size_mib) / "big", share / name)
    os.sync()
    return share


@contextmanager
def disturbance(storm: str, share: Path) -> Iterator[None]:
    """What goes on outside of the load generator: pages are dropped, or the host makes the storm."""
    with ExitStack() as stack:
        if COLD[1] in STORMS[storm] or storm == BY_HOST:
            cold = share / "cold"
            stack.enter_context(Pages(cold, [(0, cold.stat().st_size)]).kept_out())
        if storm == BY_HOST:
            stack.enter_context(disturb.storm(share))
        yield


def show(out: Console, rows: dict[tuple[str, str], Row]) -> list[str]:
    """Print the table; returns what misses the goal."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("hits of the image", "beside them"):
        table.add_column(name)
    for name in (
        "hits/s",
        "p50 us",
        "p99 us",
        "worst us",
        "p99 / quiet",
        "fsync /s",
        "writes /s",
        "copies /s",
        "cold /s",
    ):
        table.add_column(name, justify="right")
    missed = []
    for (hit, storm), row in rows.items():
        ratio = row.p("p99_us") / rows[hit, "nothing"].p("p99_us")
        cells = [f"{row.p('ops_per_s'):,.0f}"]
        cells += [f"{row.p(name):,.1f}" for name in ("p50_us", "p99_us", "worst_us")]
        cells.append(f"[{'red' if ratio > GOAL else 'green'}]{ratio:.2f}[/]")
        for pattern in ("writefsync", "write128k", "copy1m", "randread128k"):
            rates = [
                load.entries_per_s or load.ops_per_s
                for round_ in row.beside
                for load in round_
                if load.workload == pattern
            ]
            cells.append(f"{statistics.median(rates):,.0f}" if rates else "")
        table.add_row(hit, storm, *cells)
        if ratio > GOAL and storm != BY_HOST:
            missed.append(f"{hit} beside {storm} ({ratio:.2f})")
    out.print(table)
    return missed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of the file that is hit (256)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements, a row (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (2)")
    arguments = parser.parse_args(argv)
    out = console()
    try:
        run(out, arguments)
    except (BenchError, BackendError, PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(out: Console, arguments: argparse.Namespace) -> None:
    share, image = make_share(arguments.size), tree.image(arguments.size)
    out.print(f"[bold]Storms[/] on {describe_machine()}")
    out.print(f"{arguments.rounds} x {arguments.seconds} s a row, taking turns; one request queue for all")
    rows: dict[tuple[str, str], Row] = {}
    images = {"/rafs/image/lowerdir": image}
    root = "rafs/image/lowerdir/"
    with backends.nydusd(WORK, {"/containers": share}, images) as daemon:
        files = ["-f", f"{root}big", "-d", f"{root}d"]
        local = WORK / "verify-storm/rafs/image"
        local.mkdir(parents=True, exist_ok=True)
        (local / "lowerdir").unlink(missing_ok=True)
        (local / "lowerdir").symlink_to(image.source)
        loadgen.run(daemon.socket, *files, "-v", WORK / "verify-storm")  # everything is fetched
        options = [*files, "-s", str(arguments.seconds), "-p", str(daemon.process.pid)]
        for _ in range(arguments.rounds):
            for hit in HITS:
                for name, storm in STORMS.items():
                    with disturbance(name, share):
                        (line,) = loadgen.run(daemon.socket, *options, "-w", hit, *storm)
                    result, beside = loadgen.parse_results(line)
                    row = rows.setdefault((hit, name), Row())
                    row.hits.append(result)
                    row.beside.append(beside)
    missed = show(out, {key: rows[key] for key in sorted(rows, key=lambda key: HITS.index(key[0]))})
    out.print(f"p99 over {GOAL:.0f} times the quiet one: {', '.join(missed) or 'no row'}")


if __name__ == "__main__":
    sys.exit(main())
