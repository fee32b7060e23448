"""The back-ends that are measured, each started on a socket of its own and ended.

Processes are those of tests/guest. The C virtiofsd of Debian's qemu-system-common and the one in Rust of a
later release, unpacked beside, serve one front-end and end with it, so they are started for each measurement;
vhostfs serves one after the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from bench.place import BenchError
from tests.guest import debian
from tests.guest.backend import Backend, Image
from tests.guest.nydusd import Nydusd

AGENT_START_S = 20.0
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")


class Daemon(Backend):
    """A Backend that tells how it ended when a measurement fails because it did."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = self.process.poll()
        super().__exit__(kind, error, trace)
        if isinstance(error, BenchError):
            ended = "goes on" if status is None else f"ended with status {status}"
            said = self.log.read_text(errors="replace")[-4000:]
            raise BenchError(f"{error}\n{self.command[0]} {ended}:\n{said}") from error


def vhostfs(
    image: Image,
    work: Path,
    *,
    cache_dir: Path,
    queues: int = 1,
    prefix: Sequence[str] = (),
    module: Sequence[str] = ("vhostfs", "serve"),
    options: Sequence[str] = (),
) -> Daemon:
    """`vhostfs serve` of an image, or another `module` with the same options."""
    socket = work / "vhostfs.sock"
    command: list[str | Path] = [
        *prefix,
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        *module,
        "--socket",
        socket,
    ]
    command += ["--bootstrap", image.bootstrap, "--blob-dir", image.blob_dir, "--cache-dir", cache_dir]
    command += ["--num-request-queues", str(queues), "--log-level", "warning", *options]
    return Daemon(command, socket, work / "vhostfs.log")


def virtiofsd(share: Path, work: Path, *, prefix: Sequence[str] = ()) -> Daemon:
    """QEMU's C virtiofsd with its defaults (one worker thread a queue) on a directory."""
    if not VIRTIOFSD.exists():
        raise BenchError(f"no {VIRTIOFSD}: run make setup (Debian 12's qemu-system-common has it)")
    if os.geteuid() != 0:
        raise BenchError("virtiofsd has to be run by root")
    socket = work / "virtiofsd.sock"
    socket.unlink(missing_ok=True)
    command = [*prefix, str(VIRTIOFSD), f"--socket-path={socket}", "-o", f"source={share},cache=auto"]
    return Daemon(command, socket, work / "virtiofsd.log")


class RustVirtiofsd(Backend):
    """It takes a front-end that hangs up for an error."""

    good_ends = frozenset({0, 1})


def rust_virtiofsd(share: Path, work: Path, *, prefix: Sequence[str] = ()) -> Backend:
    """The virtiofsd in Rust with its defaults (one worker thread) on a directory."""
    tree = debian.rust_virtiofsd()
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    socket = work / "rust-virtiofsd.sock"
    socket.unlink(missing_ok=True)
    command: list[str | Path] = [*prefix, libraries / "ld-linux-x86-64.so.2", "--library-path", libraries]
    command += [tree / "usr/libexec/virtiofsd", f"--socket-path={socket}", f"--shared-dir={share}"]
    return RustVirtiofsd(command, socket, work / "rust-virtiofsd.log")


@contextmanager
def nydusd(
    work: Path, shares: Mapping[str, Path], images: Mapping[str, Image], *, prefix: Sequence[str] = ()
) -> Iterator[Nydusd]:
    """`vhostfs-nydusd` with directories and images by where they are mounted. Their caches are in `work`."""
    readable = [path for image in images.values() for path in (image.bootstrap, image.blob_dir)]
    cache = work / "cache-nydusd"
    cache.mkdir(exist_ok=True)
    with Nydusd(work, shared=[*shares.values(), cache], readable=readable, prefix=prefix) as daemon:
        for mountpoint, share in shares.items():
            daemon.share(mountpoint, share)
        for mountpoint, image in images.items():
            daemon.mount(mountpoint, image, cache)
        yield daemon


@contextmanager
def agent(cache_dir: Path) -> Iterator[int]:
    """The agent of a cache directory, started before daemons use it; its process id."""
    command = [sys.executable, "-m", "vhostfs", "agent", "--idle-timeout", "never", "--log-level", "warn"]
    process = subprocess.Popen([*command, "--cache-dir", str(cache_dir)])
    try:
        deadline = time.monotonic() + AGENT_START_S
        while not (cache_dir / ".agent" / "socket").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError("the agent does not start")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def on_cpu(*cpus: int) -> list[str]:
    """The prefix that pins a command."""
    if not shutil.which("taskset"):
        raise BenchError("no taskset (util-linux)")
    return ["taskset", "--cpu-list", ",".join(map(str, cpus))]
