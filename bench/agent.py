"""What does one agent for a node save? Daemons that start cold from one image, at once.

N daemons (`vhostfs serve`) read all of one image from a registry on this machine: with one cache directory,
and so one agent; and each with a cache directory and an agent of its own, which is N times the work, in the
same run. What the registry was asked for is counted by it. Memory is PSS, so what processes share counts once
in a sum; `worker` and `agent` are the medians of one, when all is read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from bench import process, tree
from bench.place import WORK, BenchError, console, describe_machine
from tests.fakes.accounts import REPOSITORY
from tests.fakes.registry import FakeRegistry
from tests.guest.backend import Backend, BackendError, Image
from tests.guest.debian import PackageError
from tests.vhostfs.test_daemon import Guest

FILE = "mixed"
SIZE_MIB = 32


@dataclass(frozen=True)
class Cost:
    """Of one start of all daemons. Bytes; the registry's figures are those of blobs."""

    wall_s: float
    cpu_s: float
    requests: int
    read_bytes: int
    worker_pss: int
    agent_pss: int
    total_pss: int


def make_image() -> Image:
    """Of the bytes of real programs."""
    root, folder = WORK / "tree-agent", WORK / "image-agent"
    for path in (root, folder):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    with (tree.tree(256) / FILE).open("rb") as source:
        (root / FILE).write_bytes(source.read(SIZE_MIB << 20))
    return Image(root, folder, "--compressor", "zstd", "--chunk-size", "256KiB")


def daemon(image: Image, host: str, number: int, cache: Path) -> Backend:
    config = WORK / f"agent-{number}.json"
    registry = {"scheme": "http", "host": host, "repo": REPOSITORY}
    text = {
        "version": 2,
        "backend": {"type": "registry", "registry": registry},
        "cache": {"type": "blobcache", "filecache": {"work_dir": str(cache)}},
    }
    config.write_text(json.dumps(text))
    socket = WORK / f"agent-{number}.sock"
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--socket", socket]
    command += ["--bootstrap", image.bootstrap, "--config", config, "--log-level", "warning"]
    return Backend(command, socket, WORK / f"agent-{number}.log")


def read_all(socket: Path, file: Path) -> int:
    """Read FILE as a guest does; 1 if it is not as it should be."""
    guest = Guest(str(socket))
    try:
        return int(guest.read(f"/{FILE}".encode()) != file.read_bytes())
    finally:
        guest.close()


async def cold_start(image: Image, daemons: int, *, share: bool) -> Cost:
    [blob] = image.blob_dir.iterdir()
    top = WORK / "caches-agent"
    shutil.rmtree(top, ignore_errors=True)
    caches = [top / ("shared" if share else str(number)) for number in range(daemons)]
    async with FakeRegistry({blob.name: blob.read_bytes()}) as registry:

        def run() -> tuple[float, float, list[int], list[int]]:
            with ExitStack() as stack:
                began = time.monotonic()
                backends = [daemon(image, registry.host, n, cache) for n, cache in enumerate(caches)]
                starting = [stack.enter_context(backend) for backend in backends]
                reader = [sys.executable, "-m", "bench.agent", "--read"]
                readers = [
                    subprocess.Popen([*reader, str(backend.socket), str(image.source / FILE)])
                    for backend in starting
                ]
                if any(reader.wait() for reader in readers):
                    raise BenchError("a reader failed")
                wall = time.monotonic() - began
                workers = [backend.process.pid for backend in starting]
                agents = sorted({int((cache / ".agent" / "lock").read_text()) for cache in caches})
                cpu = sum(map(process.cpu_s, [*workers, *agents]))
                of_workers = [process.memory(pid)["Pss"] for pid in workers]
                return wall, cpu, of_workers, [process.memory(pid)["Pss"] for pid in agents]

        wall, cpu, workers, agents = await asyncio.to_thread(run)
        asked = [seen.headers.get("Range", "") for seen in registry.requests]
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", text) for text in asked]
    return Cost(
        wall_s=wall,
        cpu_s=cpu,
        requests=len(asked),
        read_bytes=sum(int(match[2]) + 1 - int(match[1]) for match in ranges if match),
        worker_pss=int(statistics.median(workers)),
        agent_pss=int(statistics.median(agents)),
        total_pss=sum(workers) + sum(agents),
    )


COLUMNS = ["wall s", "cpu s", "requests", "read MB", "of the image", "worker MB", "agent MB", "all MB"]


def add_row(table: Table, label: str, costs: Sequence[Cost], blob_size: int) -> None:
    def median(name: str) -> float:
        return float(statistics.median(getattr(cost, name) for cost in costs))

    table.add_row(
        label,
        f"{median('wall_s'):.1f}",
        f"{median('cpu_s'):.1f}",
        f"{median('requests'):,.0f}",
        f"{median('read_bytes') / 1e6:,.1f}",
        f"{median('read_bytes') / blob_size:.2f}",
        *(f"{median(name) / 1e6:.1f}" for name in ("worker_pss", "agent_pss", "total_pss")),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.agent", description=__doc__.split("\n")[0])
    parser.add_argument("--daemons", type=int, default=16, help="how many start at once (16)")
    parser.add_argument("--rounds", type=int, default=2, help="measurements, a row (2)")
    parser.add_argument("--read", nargs=2, metavar=("SOCKET", "FILE"), help="be one of the readers")
    arguments = parser.parse_args(argv)
    if arguments.read:
        return read_all(Path(arguments.read[0]), Path(arguments.read[1]))
    out, daemons = console(), arguments.daemons
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    try:
        out.print(f"[bold]An agent for {daemons} daemons[/] on {describe_machine()}")
        image = make_image()
        [blob] = image.blob_dir.iterdir()
        size = blob.stat().st_size
        out.print(f"image of {SIZE_MIB} MiB, {size / 1e6:.1f} MB stored; {arguments.rounds} rounds; medians")
        shared, apart = [], []
        for _ in range(arguments.rounds):
            shared.append(asyncio.run(cold_start(image, daemons, share=True)))
            apart.append(asyncio.run(cold_start(image, daemons, share=False)))
        add_row(table, "one cache, one agent", shared, size)
        add_row(table, "each its own", apart, size)
        out.print(table)
        requests, read = (
            statistics.median(getattr(cost, name) for cost in apart)
            / statistics.median(getattr(cost, name) for cost in shared)
            for name in ("requests", "read_bytes")
        )
        out.print(f"each its own asks {requests:.1f} times as often, and reads {read:.1f} times as much")
    except (BenchError, BackendError, PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
