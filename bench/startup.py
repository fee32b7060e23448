"""How soon does the daemon serve, and what does it weigh? Beside QEMU's C virtiofsd.

The load generator waits for the socket; then the daemon is started. Times are from just before its exec:
to the connection, and to the reply to FUSE_INIT, which is the first. Memory is read while the front-end is
connected and has done GETATTRs: no file data was touched, so hardly any guest memory counts. The image is the
demo's root file system with a warm cache directory; the first start of each, which loads the page cache, is
not counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from bench import backends, loadgen, process
from bench.place import WORK, BenchError, console, describe_machine, first_line
from tests.guest import debian
from tests.guest.backend import Backend, BackendError, Image

FILE, DIRECTORY = "usr/bin/python3.11", "usr/bin"
WAIT_S = 20


@dataclass(frozen=True)
class Start:
    connected_ms: float
    first_reply_ms: float
    cpu_ms: float  # until then
    rss: int
    pss: int
    private: int  # what goes away with the process


def start(backend: Backend) -> Start:
    """Start a back-end under the eyes of a load generator that waits for it, and end both."""
    backend.socket.unlink(missing_ok=True)
    command = [str(loadgen.build()), str(backend.socket), "-c", "-f", FILE, "-d", DIRECTORY]
    command += ["-s", "0.3", "-w", "getattr:1,getattr:1", "-t", str(WAIT_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as front_end:
        assert front_end.stdout and front_end.stderr
        began_ns = time.monotonic_ns()
        with backend.log.open("wb") as log:
            daemon = subprocess.Popen(backend.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            ready = front_end.stdout.readline()
            cpu_s = process.cpu_s(daemon.pid)
            if not ready or not front_end.stdout.readline():
                raise BenchError(f"{backend.command[:4]}: {front_end.stderr.read()}{backend.log.read_text()}")
            used = process.memory(daemon.pid)
            front_end.wait(WAIT_S)
        finally:
            daemon.terminate()
            daemon.wait(WAIT_S)
    seen = json.loads(ready)
    return Start(
        (seen["connected_ns"] - began_ns) / 1e6,
        (seen["first_reply_ns"] - began_ns) / 1e6,
        cpu_s * 1000,
        used["Rss"],
        used["Pss"],
        used["Private_Clean"] + used["Private_Dirty"],
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="starts, a row (10)")
    arguments = parser.parse_args(argv)
    out = console()
    try:
        source = debian.python_root()
        folder = WORK / "image-startup"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        image = Image(source, folder)
        runs = {
            "vhostfs serve": backends.vhostfs(image, folder, cache_dir=folder / "cache"),
            "virtiofsd": backends.virtiofsd(source, folder),
        }
        out.print(f"[bold]Start-up[/] on {describe_machine()}")
        peer = first_line(str(backends.VIRTIOFSD), "--version")
        out.print(f"peer: {peer}; {arguments.rounds} starts each, taking turns; medians")
        starts: dict[str, list[Start]] = {name: [] for name in runs}
        for _ in range(arguments.rounds + 1):
            for name, backend in runs.items():
                starts[name].append(start(backend))
    except (BenchError, BackendError, debian.PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    table = Table(box=box.SIMPLE_HEAD)
    for name in (
        "",
        "connectable ms",
        "first reply ms",
        "worst ms",
        "cpu ms",
        "RSS MB",
        "PSS MB",
        "private MB",
    ):
        table.add_column(name, justify="right" if name else "left")
    for name, (_, *seen) in starts.items():
        cells = [
            f"{statistics.median(s.connected_ms for s in seen):.1f}",
            f"{statistics.median(s.first_reply_ms for s in seen):.1f}",
            f"{max(s.first_reply_ms for s in seen):.1f}",
            f"{statistics.median(s.cpu_ms for s in seen):.1f}",
        ]
        for size in ("rss", "pss", "private"):
            cells.append(f"{statistics.median([getattr(s, size) for s in seen]) / 1e6:.1f}")
        table.add_row(name, *cells)
    out.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
