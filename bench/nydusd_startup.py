"""How soon is vhostfs-nydusd ready for Kata, and what do many of them weigh?

Each start is Kata's: its command line, then its question for the state, asked until it is RUNNING. Times are
from just before the exec: to that answer, and to the reply to FUSE_INIT on the vhost-user socket, which a
load generator waits for. "python" is the interpreter that starts and ends, in the same run: what nothing
of ours can be faster than. The first start of each, which loads the page cache, is not counted.

Memory is a daemon's share (PSS) and what it has alone (private), the mean over all that run at once: as
started, and when each has a host directory and an image mounted, as with one container. `--profile` says
which packages the time to import goes to.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from bench import loadgen, process
from bench.place import REPO, WORK, BenchError, console, describe_machine

NYDUSD = [sys.executable, "-c", "import sys; from vhostfs.nydusd.cli import main; sys.exit(main())"]
WAIT_S = 20
COUNTS = (1, 4, 16)


@dataclass(frozen=True)
class Start:
    ready_ms: float  # the API has answered RUNNING
    first_reply_ms: float  # to FUSE_INIT
    cpu_ms: float  # until RUNNING


class Api(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("unix", timeout=WAIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))

    def call(self, method: str, target: str, body: dict[str, str] | None = None) -> bytes:
        """The body of the answer. Raises BenchError when it is an error."""
        self.request(method, target, json.dumps(body) if body else None)
        response = self.getresponse()
        content = response.read()
        if response.status >= 300:
            raise BenchError(f"{method} {target}: {content.decode()}")
        return content


@contextmanager
def nydusd(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon as Kata starts it, with its sockets `vu` and `api` in the folder; it has not begun yet."""
    command = [*NYDUSD, "virtiofs", "--log-level", "info", "--apisock", str(folder / "api")]
    command += ["--sock", str(folder / "vu"), *options]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        yield daemon
    finally:
        daemon.terminate()
        if daemon.wait(WAIT_S):
            raise BenchError(f"{folder}/log: {(folder / 'log').read_text()}")


def wait_running(folder: Path) -> None:
    """Ask for the state on a new connection each time, a fifth of a millisecond apart."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        api = Api(folder / "api")
        try:
            if json.loads(api.call("GET", "/api/v1/daemon"))["state"] == "RUNNING":
                return
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.0002)
        finally:
            api.close()
    raise BenchError(f"not RUNNING after {WAIT_S} s: {(folder / 'log').read_text()}")


def start(folder: Path, *options: str) -> Start:
    """Start a daemon under the eyes of a load generator that waits for its socket, and end both."""
    command = [str(loadgen.build()), str(folder / "vu"), "-c", "-f", "none", "-d", "none"]
    command += ["-w", "getattr:1", "-t", str(WAIT_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as front_end:
        assert front_end.stdout
        began_ns = time.monotonic_ns()
        with nydusd(folder, *options) as daemon:
            wait_running(folder)
            ready_ns, cpu_s = time.monotonic_ns(), process.cpu_s(daemon.pid)
            seen = json.loads(front_end.stdout.readline() or "null")
            front_end.kill()
        if not seen:
            raise BenchError(f"no reply to FUSE_INIT: {(folder / 'log').read_text()}")
    return Start((ready_ns - began_ns) / 1e6, (seen["first_reply_ns"] - began_ns) / 1e6, cpu_s * 1000)


def interpreter_ms() -> float:
    """The wall time of a Python that does nothing."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.monotonic() - began) * 1000


def mount(folder: Path, image: Path) -> None:
    """What a sandbox with one container has: a host directory, and an image in a cache of its own."""
    config = {
        "device": {
            "backend": {"type": "localfs", "config": {"dir": str(image / "blobs")}},
            "cache": {"type": "blobcache", "config": {"work_dir": str(folder / "cache")}},
        },
        "mode": "direct",
    }
    rafs = {"fs_type": "rafs", "source": str(image / "boot"), "config": json.dumps(config)}
    api = Api(folder / "api")
    api.call(
        "POST",
        "/api/v1/mount?mountpoint=/containers",
        {"fs_type": "passthrough_fs", "source": str(folder), "config": ""},
    )
    api.call("POST", "/api/v1/mount?mountpoint=/rafs/c/lowerdir", rafs)
    api.close()


def weigh(work: Path, image: Path, count: int, *, is_mounted: bool) -> list[float]:
    """RSS, PSS and private memory in MB: the mean of `count` daemons that run at once."""
    with ExitStack() as stack:
        daemons = []
        for number in range(count):
            folder = fresh(work / str(number))
            daemons.append(stack.enter_context(nydusd(folder, f"--sandbox-writable={work.parent}")))
            wait_running(folder)
            if is_mounted:
                mount(folder, image)
        time.sleep(1)  # what is imported late is there, and free memory given back
        used = [process.memory(daemon.pid) for daemon in daemons]
    private = [one["Private_Clean"] + one["Private_Dirty"] for one in used]
    return [
        statistics.mean(values) / 1e6
        for values in ([one["Rss"] for one in used], [one["Pss"] for one in used], private)
    ]


def build_image(folder: Path) -> Path:
    """An image of the Python packages of this repository."""
    command = [sys.executable, "-m", "vhostfs", "build", str(REPO / "vhostfs"), "--bootstrap"]
    subprocess.run(
        [*command, str(folder / "boot"), "--blob-dir", str(folder / "blobs")],
        check=True,
        capture_output=True,
        cwd=REPO,
    )
    return folder


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def profile() -> dict[str, tuple[float, int]]:
    """Milliseconds to import, and modules, by package: least of five runs. Timing them makes them slower."""
    code = "import vhostfs.nydusd.cli, vhostfs.nydusd.process, vhostfs.nydusd.daemon"
    least: dict[str, float] = {}
    for _ in range(5):
        command = [sys.executable, "-X", "importtime", "-c", code]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPO)
        for self_us, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr):
            least[name] = min(least.get(name, 1e9), int(self_us) / 1000)
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for name, took_ms in least.items():
        groups[name.partition(".")[0]].append(took_ms)
    total = {name: (sum(times), len(times)) for name, times in groups.items()}
    return dict(sorted(total.items(), key=lambda item: -item[1][0]))


def times_table(work: Path, rounds: int) -> Table:
    """Starts with and without the sandbox, and of Python alone, taking turns."""
    variants: dict[str, tuple[str, ...]] = {"vhostfs-nydusd": (), "without sandbox": ("--no-sandbox=all",)}
    starts: dict[str, list[Start]] = {name: [] for name in variants}
    floor: list[float] = []
    for number in range(rounds + 1):
        for name, options in variants.items():
            seen = start(fresh(work / "start"), *options)
            if number:
                starts[name].append(seen)
        floor.append(interpreter_ms())
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "API ready ms", "best", "worst", "first FUSE reply ms", "cpu ms until ready"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, all_of in starts.items():
        ready = [one.ready_ms for one in all_of]
        cells = [statistics.median(ready), min(ready), max(ready)]
        cells += [statistics.median(one.first_reply_ms for one in all_of)]
        cells += [statistics.median(one.cpu_ms for one in all_of)]
        table.add_row(name, *(f"{cell:.1f}" for cell in cells))
    cells = [statistics.median(floor), min(floor), max(floor)]
    table.add_row("python -c pass", *(f"{cell:.1f}" for cell in cells), "", "")
    return table


def memory_table(work: Path) -> Table:
    image = build_image(fresh(work / "image"))
    table = Table(box=box.SIMPLE_HEAD)
    for heading in (
        "daemons at once",
        "RSS MB",
        "PSS MB",
        "private MB",
        "mounted: RSS MB",
        "PSS MB",
        "private MB",
    ):
        table.add_column(heading, justify="right")
    for count in COUNTS:
        cells = weigh(work, image, count, is_mounted=False) + weigh(work, image, count, is_mounted=True)
        table.add_row(str(count), *(f"{cell:.1f}" for cell in cells))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.nydusd_startup", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=15, help="starts, a row (15)")
    parser.add_argument("--profile", action="store_true", help="say what the time to import goes to")
    arguments = parser.parse_args(argv)
    out = console()
    work = fresh(WORK / "nydusd-startup")
    out.print(f"[bold]vhostfs-nydusd's start-up[/] on {describe_machine()}")
    out.print(f"{arguments.rounds} starts each, taking turns; medians")
    try:
        out.print(times_table(work, arguments.rounds))
        out.print(memory_table(work))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.profile:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("imports", "ms", "modules"):
            table.add_column(heading, justify="right" if heading != "imports" else "left")
        for name, (took_ms, modules) in list(profile().items())[:15]:
            table.add_row(name, f"{took_ms:.1f}", str(modules))
        out.print(table)
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
