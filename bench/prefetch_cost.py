"""What does prefetching cost a read that misses? On-demand reads are to go first.

An image of real programs' bytes in chunks of 1 MiB, in a registry behind a link of RTT and BANDWIDTH. Reads
of 4 KiB, one at a time, each of a chunk that nobody has read, with a pause after each; once with nothing else
going on and once while the whole image is prefetched as fast as the link allows. The reads are the same, from
the end of the blob, where prefetching comes last. Rounds take turns, each with an empty cache and a new
daemon. The goal is a ratio of at most 1.10.

Registry, link and daemon share the CPUs of this machine: what that costs is in the ratio too.
tests/rafs/prefetch/test_cost.py has the part of the link alone, on simulated ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from bench import served, tree
from bench.place import WORK, BenchError, console, describe_machine
from rafs.image import Image as Bootstrap
from tests.fakes.shaped_link import shaped_link
from tests.guest.backend import BackendError, Image
from tests.guest.debian import PackageError

HERE = WORK / "prefetch-cost"
FILE = "mixed"
GOAL = 1.10
PAUSE_S = (0.02, 0.08)


@dataclass
class Seen:
    """Of all rounds: seconds that each read took, and stored bytes that were prefetched meanwhile."""

    latencies: list[float] = field(default_factory=list)
    prefetched: int = 0
    seconds: float = 0.0


def reads_of(image: Image, count: int, rng: random.Random) -> tuple[int, list[int]]:
    """The file's nid, and offsets in it: each of another chunk of the last third of the blob."""
    bootstrap = Bootstrap(image.bootstrap)
    try:
        nid = bootstrap.resolve(f"/{FILE}".encode())
        chunks = {e.chunk_index: e.file_offset for e in bootstrap.extents(nid, 0, bootstrap.inode(nid).size)}
    finally:
        bootstrap.close()
    last = sorted(chunks)[-len(chunks) // 3 :]
    if len(last) < count:
        raise BenchError(f"{FILE} has only {len(last)} chunks to read from")
    return nid, [chunks[index] for index in rng.sample(last, count)]


def run(image: Image, port: int, count: int, seed: int, seen: Seen, *, prefetch: bool) -> None:
    """One round."""
    rng = random.Random(seed)
    nid, offsets = reads_of(image, count, rng)
    with served.cold(HERE, image, port) as daemon:
        root = daemon.mount({"enable": prefetch, "prefetch_all": True})
        base = root >> 48 << 48
        if prefetch:  # until it is under way
            while not daemon.metrics("blobcache")["prefetch_requests_count"]:
                time.sleep(0.02)
        before, began = daemon.metrics("blobcache"), time.monotonic()
        for offset in offsets:
            time.sleep(rng.uniform(*PAUSE_S))
            asked = time.monotonic()
            daemon.guest.fuse.read(base | nid, offset, 4096)
            seen.latencies.append(time.monotonic() - asked)
        seen.seconds += time.monotonic() - began
        after = daemon.metrics("blobcache")
        seen.prefetched += after["prefetch_data_amount"] - before["prefetch_data_amount"]
        if prefetch and after["prefetch_end_time_secs"]:
            raise BenchError("prefetching was through before the reads were")


def add_rows(table: Table, quiet: Seen, busy: Seen) -> float:
    """A row each, and the ratio of the means, which is returned."""
    for name, seen in (("nothing prefetched", quiet), ("whole image prefetched", busy)):
        ordered = sorted(seen.latencies)
        table.add_row(
            name,
            str(len(ordered)),
            *(f"{1000 * value:.1f}" for value in (statistics.mean(ordered), statistics.median(ordered))),
            f"{1000 * ordered[len(ordered) * 95 // 100]:.1f}",
            f"{seen.prefetched * 8 / seen.seconds / 1e6:.0f}",
        )
    ratio = statistics.mean(busy.latencies) / statistics.mean(quiet.latencies)
    medians = statistics.median(busy.latencies) / statistics.median(quiet.latencies)
    table.add_row("ratio", "", f"{ratio:.2f}", f"{medians:.2f}", "", "", style="bold")
    return ratio


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.prefetch_cost", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each kind (3)")
    parser.add_argument("--reads", type=int, default=25, help="in a round (25)")
    parser.add_argument("--rtt", type=float, default=20.0, metavar="MS", help="round trip of the link (20)")
    parser.add_argument("--mbit", type=float, default=100.0, help="bandwidth of the link, Mbit/s (100)")
    arguments = parser.parse_args(argv)
    out = console()
    HERE.mkdir(parents=True, exist_ok=True)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("reads", "mean ms", "median ms", "p95 ms", "prefetched Mbit/s"):
        table.add_column(name, justify="right")
    quiet, busy = Seen(), Seen()
    try:
        out.print(f"[bold]Cost of prefetching[/] on {describe_machine()}")
        out.print(f"a link of {arguments.rtt:.0f} ms and {arguments.mbit:.0f} Mbit/s")
        image = tree.image(1, "zstd")
        with (
            served.pushed_registry(HERE / "registry", image.blob_dir) as registry,
            shaped_link(registry, rtt_ms=arguments.rtt, mbit=arguments.mbit) as port,
        ):
            for seed in range(arguments.rounds):
                run(image, port, arguments.reads, seed, quiet, prefetch=False)
                run(image, port, arguments.reads, seed, busy, prefetch=True)
    except (BenchError, BackendError, PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    ratio = add_rows(table, quiet, busy)
    out.print(table)
    out.print(
        f"{ratio:.2f} times the latency; the goal is {GOAL:.2f}: {'met' if ratio <= GOAL else 'missed'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
