"""`vhostfs-nydusd` as a process, started as Kata's runtimes start it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.conftest import REPO
from tests.vhostfs.api.client import UnixConnection

#: the console script of the package, whichever copy is under test
NYDUSD = [sys.executable, "-c", "import sys; from vhostfs.nydusd.cli import main; sys.exit(main())"]
PATIENCE_S = 20
#: what tests share, mount and cache lies here, and not where Kata and the snapshotter would put it
REACH = Path(tempfile.gettempdir())


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPO)}


@dataclass
class Nydusd:
    """A running daemon. `lines` grows while it speaks; `sock` and `api` are its sockets."""

    process: subprocess.Popen[bytes]
    cwd: Path
    sock: Path
    api: Path
    lines: list[bytes] = field(default_factory=list)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    @property
    def log(self) -> str:
        return b"".join(self.lines).decode()

    def client(self) -> UnixConnection:
        return UnixConnection(self.api)

    def call(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        """One request on a connection of its own."""
        with self.client() as client:
            answered = client.call(method, target, body)
        return answered.status, answered.body


@contextmanager
def started(
    cwd: Path, words: Sequence[str | Path], *, reach: Iterable[Path] = (), separate: bool = False
) -> Iterator[Nydusd]:
    """The process with `words` as arguments, killed at the end.

    `reach`: directories that stand for Kata's and the snapshotter's own, which the sandbox leaves open.
    `separate`: two pipes, as runtime-rs has it.
    """
    extra = [f"--sandbox-writable={path}" for path in reach]  # as Kata appends virtio_fs_extra_args
    arguments = [*map(str, words), *extra]
    process = subprocess.Popen(
        [*NYDUSD, *arguments, "--sandbox-writable", str(REACH)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if separate else subprocess.STDOUT,
    )
    sock = cwd / (
        arguments[arguments.index("--sock") + 1] if "--sock" in arguments else "no vhost-user socket"
    )
    api = cwd / arguments[arguments.index("--apisock") + 1]
    nydusd = Nydusd(process, cwd, sock, api)
    readers = [
        threading.Thread(target=_collect, args=(pipe, nydusd.lines))
        for pipe in (process.stdout, process.stderr)
        if pipe is not None
    ]
    for reader in readers:
        reader.start()
    try:
        yield nydusd
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _collect(pipe: IO[bytes], lines: list[bytes]) -> None:
    lines.extend(pipe)


def wait_go(nydusd: Nydusd) -> dict[str, Any]:
    """The Go runtime's wait (contract 1.4): 20 attempts, a connection each; the status does not count."""
    for attempt in range(20):
        with suppress(FileNotFoundError, ConnectionRefusedError), nydusd.client() as client:
            client.request("GET", "http://unix/api/v1/daemon", headers={"Host": "unix"})
            info: dict[str, Any] = json.loads(client.getresponse().read())
            if info["state"] == "RUNNING":
                return info
        assert nydusd.process.poll() is None, nydusd.log
        time.sleep(0.02 * 2**attempt + random.uniform(0, 0.1))
    raise AssertionError(nydusd.log)


def wait_rust(nydusd: Nydusd) -> dict[str, Any]:
    """runtime-rs's wait (contract 2.2): 100 attempts, 100 ms apart, 200 and five strings of a version."""
    for _ in range(100):
        with suppress(FileNotFoundError, ConnectionRefusedError), UnixConnection(nydusd.api, 1) as client:
            headers = {"Content-Type": "application/json"}
            status, info, _ = client.call("GET", "/api/v1/daemon", **headers)
            assert status == 200
            names = ("package_ver", "git_commit", "build_time", "profile", "rustc")
            assert all(isinstance(info["version"][name], str) for name in names)
            if info["state"] == "RUNNING":
                ready: dict[str, Any] = info
                return ready
        assert nydusd.process.poll() is None, nydusd.log
        time.sleep(0.1)
    raise AssertionError(nydusd.log)


Wait = Callable[[Nydusd], dict[str, Any]]


def snapshotter_config(blob_dir: Path, work_dir: Path, snapshot: str = "15", *, prefetch: bool = True) -> str:
    """The nested configuration that nydus-snapshotter hands to Kata, with blobs in a directory."""
    return json.dumps(
        {
            "device": {
                "id": f"/{snapshot}",
                "backend": {
                    "type": "localfs",
                    "config": {"readahead": False, "dir": str(blob_dir), "proxy": {"fallback": False}},
                },
                "cache": {
                    "type": "blobcache",
                    "config": {"work_dir": str(work_dir), "disable_indexed_map": False},
                },
            },
            "mode": "direct",
            "digest_validate": False,
            "enable_xattr": True,
            "fs_prefetch": {
                "enable": prefetch,
                "prefetch_all": True,
                "threads_count": 8,
                "merging_size": 1048576,
            },
        }
    )
