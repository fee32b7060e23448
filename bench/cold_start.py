"""How long does a program take from an image that nobody has read yet, over a slow link?

The program is a Python web application that is imported and made ready, in the image of the demo, with its
modules compiled. A guest runs it once from the image, and what it reads is recorded as a trace. That sequence
of reads is then replayed by a vhost-user front-end, each read after the one before and a think time: those of
the recording, scaled to the CPU time that the program takes natively on this machine, since a guest without
KVM takes many times that. The image's blob lies in a registry behind a link of RTT and BANDWIDTH; each run
has an empty cache, a new daemon and a new mount, and begins when that is mounted.

Rows: nothing prefetched; the files that it reads, as a list by name; the trace of the recording; the whole
image. A list in the order of the reads is half a trace, and does nearly as well where files are read whole.
*bytes need* is what the bytes that were fetched until the program was ready take on that link.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bench import backends, served
from bench.place import WORK, BenchError, console, describe_machine
from rafs.image import Image as Bootstrap
from rafs.trace.format import Trace
from rafs.trace.report import files_of
from tests.fakes.shaped_link import shaped_link
from tests.guest import debian
from tests.guest.backend import BackendError, Image
from tests.guest.kernel import KernelError
from tests.guest.vm import Guest as Machine
from tests.guest.vm import GuestError
from tests.vhostfs.test_daemon import Guest
from vhostfs.tracing import read_trace

HERE = WORK / "cold-start"
#: a web application up to where it could answer; the last line is printed when it has answered once
PROGRAM = """
import asyncio, email, http.server, io, json, logging, sqlite3, ssl, urllib.request, wsgiref.handlers
import pip._vendor.requests, pip._vendor.rich.console
from html import escape

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return [escape(environ["PATH_INFO"]).encode()]

database = sqlite3.connect(":memory:")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
answer = io.BytesIO()
environ = {"PATH_INFO": "/", "REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1"}
wsgiref.handlers.SimpleHandler(io.BytesIO(), answer, io.StringIO(), environ).run(application)
print("ready" if answer.getvalue().endswith(b"/") else answer.getvalue())
"""
PYTHON = ["/usr/bin/python3", "-I", "-B", "-"]
SCRIPT = f"""
set -e
mount -t virtiofs -o ro "$TAG" /mnt
chroot /mnt {" ".join(PYTHON)} </program.py
"""
#: a guest's page cache asks for this much at once
READ_SIZE = 128 << 10


@dataclass(frozen=True)
class Step:
    """A read of the recording, and the seconds that the program computes before it."""

    nid: int
    offset: int
    length: int
    think_s: float


@dataclass(frozen=True)
class Run:
    """What one cold start took. Sums are up to when the program was ready."""

    ready_s: float
    mount_s: float
    waited_s: float
    requests: int
    read_bytes: int
    prefetched: dict[str, Any]


def recording(image: Image) -> Trace:
    """The reads of the program in a guest. Kept beside the image."""
    path = HERE / "program.trace"
    if not path.exists():
        cache = HERE / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        options = ["--trace-out", str(path)]
        with backends.vhostfs(image, HERE, cache_dir=cache, options=options) as daemon:
            result = Machine().run(
                SCRIPT,
                socket=daemon.socket,
                files={"/program.py": PROGRAM.encode()},
                backend=daemon.process,
            )
        if result.check().lines[-1] != "ready":
            raise GuestError(f"the program said {result.lines}")
    return read_trace(path)


def native_s(root: Path) -> float:
    """The CPU seconds that the program takes in the unpacked files; the least of some runs."""
    took = []
    for _ in range(3):
        command = ["chroot", str(root), *PYTHON]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(PROGRAM)
            process.stdin.close()
            said = process.stdout.read().strip()
            _, _, used = os.wait4(process.pid, 0)
            process.returncode = 0
        took.append(used.ru_utime + used.ru_stime)
        if said != "ready":
            raise BenchError(f"the program does not run here: {said}")
    return min(took)


def steps_of(trace: Trace, think_s: float) -> list[Step]:
    """The reads, with think times that add up to `think_s`.

    In the recording, a read that missed was waited for; what passed until the next one is not all thinking.
    Its share is taken to be that of a read that hit: the median.
    """
    accesses = trace.accesses
    passed = [b.time_ns - a.time_ns for a, b in pairwise(accesses)]
    usual = statistics.median(passed)
    thought = [0.0, *(min(ns, 20 * usual) for ns in passed)]
    scale = think_s / sum(thought)
    return [
        Step(access.nid, access.file_offset, min(access.length, READ_SIZE), ns * scale)
        for access, ns in zip(accesses, thought, strict=True)
    ]


def replay(guest: Guest, root: int, steps: Sequence[Step]) -> float:
    """Read as the program does; returns the seconds that were spent waiting for reads.

    Each think time begins when the read before has ended; what one is too long, the next ones are shorter.
    """
    base = root >> 48 << 48
    waited = debt = 0.0
    now = time.monotonic()
    for step in steps:
        if (pause := step.think_s - debt) > 0:
            time.sleep(pause)
        began = time.monotonic()
        debt += began - now - step.think_s
        guest.fuse.read(base | step.nid, step.offset, step.length)
        now = time.monotonic()
        waited += now - began
    return waited


def hit_s(image: Image, steps: Sequence[Step]) -> float:
    """What the reads of the replay take by themselves when all is cached: next to nothing in a guest."""
    cache = HERE / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    with backends.vhostfs(image, HERE, cache_dir=cache) as daemon:
        guest = Guest(str(daemon.socket))
        root = guest.fuse.walk(b"/").nodeid
        at_once = [replace(step, think_s=0.0) for step in steps]
        took = [replay(guest, root, at_once) for _ in range(4)]
        guest.close()
    return min(took[1:])


def cold_start(image: Image, port: int, steps: Sequence[Step], prefetch: dict[str, Any]) -> Run:
    """One run. `prefetch`: fields of the mount request."""
    with served.cold(HERE, image, port) as daemon:
        began = time.monotonic()
        root = daemon.mount(**prefetch)
        mounted = time.monotonic()
        waited = replay(daemon.guest, root, steps)
        ready = time.monotonic() - mounted
        backend, cached = daemon.metrics("backend"), daemon.metrics("blobcache")
    return Run(ready, mounted - began, waited, backend["read_count"], backend["read_amount_total"], cached)


@dataclass
class Link:
    """The port of the registry at the end of the link, and what the link is like."""

    port: int
    rtt_ms: float
    mbit: float

    def need_s(self, size: int) -> float:
        """What the transfer of `size` bytes takes."""
        return size * 8 / (self.mbit * 1e6)


MODES = ["nothing", "file list", "trace", "whole image"]


def prefetch_of(mode: str, image: Image, trace: Trace) -> dict[str, Any]:
    """What a mount request says for a mode."""
    config = {"enable": True, "prefetch_all": mode == "whole image"}
    if mode == "nothing":
        return {}
    if mode == "trace":
        return {"trace": str(HERE / "program.trace")}
    if mode == "whole image":
        return {"fs_prefetch": config}
    opened = Bootstrap(image.bootstrap)
    paths = sorted(file.path.decode() for file in files_of(trace, opened) if file.path)
    opened.close()
    return {"fs_prefetch": config, "prefetch_files": paths}


COLUMNS = [
    "ready s",
    "mount s",
    "waited s",
    "requests",
    "MB",
    "bytes need s",
    "ready / need",
    "of that, prefetched MB",
]


def add_row(table: Table, mode: str, runs: Sequence[Run], link: Link) -> None:
    run = sorted(runs, key=lambda run: run.ready_s)[len(runs) // 2]
    need = link.need_s(run.read_bytes)
    table.add_row(
        mode,
        f"{run.ready_s:.2f}",
        f"{run.mount_s:.2f}",
        f"{run.waited_s:.2f}",
        str(run.requests),
        f"{run.read_bytes / 1e6:.1f}",
        f"{need:.2f}",
        f"{run.ready_s / need:.2f}",
        f"{run.prefetched['prefetch_data_amount'] / 1e6:.1f}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cold_start", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs, a row (3); the median is shown")
    parser.add_argument("--rtt", type=float, default=20.0, metavar="MS", help="round trip of the link (20)")
    parser.add_argument("--mbit", type=float, default=100.0, help="bandwidth of the link, Mbit/s (100)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    arguments = parser.parse_args(argv)
    out = console()
    HERE.mkdir(parents=True, exist_ok=True)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("prefetched")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    try:
        out.print(f"[bold]Cold start[/] on {describe_machine()}")
        root = compiled_root()
        image = built(root)
        trace = recording(image)
        program_s = native_s(root)
        reads_s = hit_s(image, steps_of(trace, 0.0))
        steps = steps_of(trace, max(program_s - reads_s, 0.0))
        out.print(
            f"{len(steps)} first reads, {program_s:.2f} s of computing (of that {reads_s:.2f} s in the reads "
            f"of the replay, if they hit); "
            f"a link of {arguments.rtt:.0f} ms and {arguments.mbit:.0f} Mbit/s"
        )
        with (
            served.pushed_registry(HERE / "registry", image.blob_dir) as registry,
            shaped_link(registry, rtt_ms=arguments.rtt, mbit=arguments.mbit) as port,
        ):
            link = Link(port, arguments.rtt, arguments.mbit)
            runs: dict[str, list[Run]] = {mode: [] for mode in arguments.modes}
            for _ in range(arguments.rounds):
                for mode in arguments.modes:
                    runs[mode].append(cold_start(image, port, steps, prefetch_of(mode, image, trace)))
        for mode in arguments.modes:
            add_row(table, mode, runs[mode], link)
    except (BenchError, BackendError, GuestError, KernelError, debian.PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    out.print(table)
    return 0


def compiled_root() -> Path:
    """The demo's root file system with Python's modules compiled, as images have them; kept."""
    root = HERE / "root"
    if not root.exists():
        part = HERE / "root.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(debian.python_root(), part, symlinks=True)
        for folder in ("python3.11", "python3"):
            command = ["chroot", str(part), "/usr/bin/python3", "-m", "compileall", "-q"]
            command.append(f"/usr/lib/{folder}")
            subprocess.run(command, check=True)
        part.rename(root)
    return root


def built(root: Path) -> Image:
    """The image of the demo, by zstd as converters do it; kept."""
    if not (HERE / "bootstrap").exists():
        return Image(root, HERE, "--compressor", "zstd")
    image = Image.__new__(Image)
    image.source, image.bootstrap, image.blob_dir = root, HERE / "bootstrap", HERE / "blobs"
    return image


if __name__ == "__main__":
    sys.exit(main())
