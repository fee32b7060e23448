"""The daemon behind a guest's virtio-fs device: started, waited for, ended, and what it counted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.guest.vm import Guest, GuestError, Result

#: A daemon listens within tens of ms; the bound is for a loaded machine, or a build under sanitizers.
START_S = 20.0
#: It ends within a second of SIGTERM; the bound allows for a sanitizer.
STOP_S = 10.0


class BackendError(Exception):
    """The daemon did not start or did not end as it should; the text has what it said."""


class Backend:
    """A back-end process that listens on `socket`; use it in a with block.

    `command` is complete (it names the socket). The daemon's output goes to `log`.
    """

    #: statuses that it may end with
    good_ends = frozenset({0})

    def __init__(self, command: Sequence[str | Path], socket: Path, log: Path) -> None:
        self.command = [str(part) for part in command]
        self.socket = socket
        self.log = log
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not is_listening(self.socket):
            if self._ended_within(0.01):
                raise BackendError(
                    f"{self._name} ended with {self.process.returncode} at its start:\n{self.said()}"
                )
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise BackendError(
                    f"{self._name} does not listen on {self.socket} after {START_S:.0f} s:\n{self.said()}"
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        if not self._ended_within(STOP_S):
            self.process.kill()
            self.process.wait()
            raise BackendError(f"{self._name} did not end within {STOP_S:.0f} s of SIGTERM:\n{self.said()}")
        if self.process.returncode not in self.good_ends and kind is None:
            raise BackendError(f"{self._name} ended with status {self.process.returncode}:\n{self.said()}")

    @property
    def _name(self) -> str:
        return " ".join(self.command[:4])

    def _ended_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def said(self) -> str:
        """The end of what the daemon printed."""
        return self.log.read_text(errors="replace")[-4000:]


@dataclass(frozen=True)
class Statistics:
    """What a daemon counted, of what it writes with --statistics. Reads are FUSE READ requests."""

    requests: int
    reads: int
    misses: int  # reads that had to wait for a chunk
    backend_requests: int
    chunks_fetched: int
    bytes_fetched: int  # as stored in the blob

    @property
    def hits(self) -> int:
        return self.reads - self.misses

    @classmethod
    def parse(cls, text: str) -> Statistics:
        counted: dict[str, int] = json.loads(text)
        names = (
            "requests",
            "reads",
            "misses",
            "fetch_requests",
            "fetch_fetched_chunks",
            "fetch_fetched_bytes",
        )
        return cls(*(counted[name] for name in names))


class Vhostfs(Backend):
    """`vhostfs serve` for one image; `statistics()` is what it counted, once the with block has ended."""

    def __init__(self, image: Image, cache_dir: Path, work: Path, *, queues: int = 1) -> None:
        self._statistics = work / "statistics.json"
        socket = work / "vhostfs.sock"
        command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--socket", socket]
        command += ["--bootstrap", image.bootstrap, "--blob-dir", image.blob_dir, "--cache-dir", cache_dir]
        command += ["--tag", "vhostfs", "--num-request-queues", str(queues), "--statistics", self._statistics]
        super().__init__(command, socket, work / "vhostfs.log")

    def statistics(self) -> Statistics:
        return Statistics.parse(self._statistics.read_text())


class Image:
    """A RAFS image that `vhostfs build` made of a folder."""

    def __init__(self, source: Path, work: Path, *options: str, show_progress: bool = False) -> None:
        self.source = source
        self.bootstrap = work / "bootstrap"
        self.blob_dir = work / "blobs"
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "vhostfs",
            "build",
            source,
            "--bootstrap",
            self.bootstrap,
        ]
        command += ["--blob-dir", self.blob_dir, *options]
        output = None if show_progress else subprocess.PIPE
        done = subprocess.run(command, stdout=output, stderr=output, text=True)
        if done.returncode:
            raise BackendError(
                f"vhostfs build {source} ended with status {done.returncode}: {done.stderr or ''}"
            )


def run_on_image(
    guest: Guest,
    image: Image,
    script: str,
    work: Path,
    *,
    cache_dir: Path | None = None,
    queues: int = 1,
    files: Mapping[str, bytes | Path] | None = None,
    timeout_s: float = 120,
) -> tuple[Result, Statistics]:
    """Serve `image` to a guest of its own that runs `script`; what came back and what the daemon counted.

    `work` takes the daemon's files; `cache_dir` is the chunk cache, by default an empty one below `work`.
    Raises GuestError or BackendError when anything but the script's own status is wrong.
    """
    with Vhostfs(image, cache_dir or work / "cache", work, queues=queues) as daemon:
        try:
            result = guest.run(
                script,
                socket=daemon.socket,
                queues=queues,
                files=files,
                backend=daemon.process,
                timeout_s=timeout_s,
            )
        except GuestError as error:
            raise GuestError(f"{error}\nthe daemon said:\n{daemon.said()}") from None
    return result, daemon.statistics()


def is_listening(socket: Path) -> bool:
    """Whether a back-end listens on `socket`; found without connecting, since a back-end serves who connects.

    vhostfs makes the path appear when it listens. virtiofsd binds it first: then the path stands in
    /proc/net/unix, and is up once the flag __SO_ACCEPTCON is set.
    """
    if not socket.exists():
        return False
    rows = [line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return all(int(row[3], 16) & 0x10000 for row in rows if len(row) == 8 and row[7] == str(socket))
