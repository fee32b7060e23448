"""The back-ends that are measured, each started on a socket of its own and ended.

Processes are those of tests/guest/backend.py. The C virtiofsd of Debian's qemu-system-common serves one
front-end and ends with it, so it is started for each measurement; vhostfs serves one after the other.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bench.place import BenchError
from tests.guest.backend import Backend, Image

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


def on_cpu(*cpus: int) -> list[str]:
    """The prefix that pins a command."""
    if not shutil.which("taskset"):
        raise BenchError("no taskset (util-linux)")
    return ["taskset", "--cpu-list", ",".join(map(str, cpus))]
