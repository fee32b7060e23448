"""nydus-snapshotter's side of a FUSE daemon: command lines, waits and its supervisor (contract, part 4)."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.vhostfs.nydusd.daemon_process import PATIENCE_S, Nydusd, started
from vhostfs.fuse_mount import FuseMountError, mounted_at, umount


def command(
    where: Path,
    bootstrap: Path | None = None,
    config: Path | None = None,
    supervisor: Path | None = None,
    socket_name: str = "api.sock",
    *,
    upgrade: bool = False,
) -> list[str | Path]:
    """In the order in which it writes them (contract 4.1)."""
    words: list[str | Path] = ["fuse"]
    words += ["--upgrade"] if upgrade else []
    words += ["--thread-num", "4"]
    words += ["--id", "d1aaaaaaaaaaaaaaaaaa"] if supervisor else []
    words += ["--config", config] if config else []
    words += ["--bootstrap", bootstrap] if bootstrap else []
    words += ["--mountpoint", where / "mnt", "--apisock", where / socket_name, "--log-level", "info"]
    words += ["--log-rotation-size", "100"]
    words += ["--supervisor", supervisor] if supervisor else []
    words += ["--failover-policy", "resend"]
    return words


def until(condition: Callable[[], Any], nydusd: Nydusd | None = None) -> Any:
    """Ask again and again; its first true value. AssertionError after PATIENCE_S, with the daemon's log."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(OSError):
            if value := condition():
                return value
        if time.monotonic() > deadline or (nydusd is not None and nydusd.process.poll() is not None):
            raise AssertionError(nydusd.log if nydusd is not None else "it did not happen")
        os.sched_yield()


def state(nydusd: Nydusd) -> Any:
    return nydusd.call("GET", "/api/v1/daemon")[1]["state"]


@contextmanager
def daemon(cwd: Path, words: list[str | Path], *, wait: str = "RUNNING") -> Iterator[Nydusd]:
    """A daemon in the state `wait`. At the end it is killed, and its mount is taken off."""
    where = Path(words[words.index("--mountpoint") + 1])
    where.mkdir(exist_ok=True)
    try:
        with started(cwd, words) as nydusd:
            until(lambda: state(nydusd) == wait, nydusd)
            yield nydusd
    finally:
        while mounted_at(where) is not None:
            with suppress(FuseMountError):
                umount(where, lazy=True)


@contextmanager
def successor(cwd: Path, words: list[str | Path]) -> Iterator[Nydusd]:
    """A daemon that waits to take over; killed at the end, and the mount is left."""
    with started(cwd, words) as nydusd:
        until(lambda: state(nydusd) == "INIT", nydusd)
        yield nydusd


class Supervisor:
    """It listens for one exchange at a time, as the snapshotter's does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = b""
        self.fd = -1

    @contextmanager
    def listening(self) -> Iterator[socket.socket]:
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.path))
            listener.listen(1)
            listener.settimeout(PATIENCE_S)
            yield listener

    def fetch(self, ask: Callable[[], tuple[int, Any]]) -> tuple[int, Any]:
        """Take what a daemon sends when it is asked to; what it answers."""
        with self.listening() as listener:
            answered = ask()
            connection, _ = listener.accept()
            with connection:
                data, fds, _, _ = socket.recv_fds(connection, 256 << 10, 64)
                pieces = [data]
                while piece := connection.recv(256 << 10):
                    pieces.append(piece)
        if fds:
            self.drop()
            self.state, self.fd = b"".join(pieces), fds[0]
        return answered

    def offer(self, ask: Callable[[], tuple[int, Any]]) -> tuple[int, Any]:
        """Send what there is to a daemon that is asked to take over; what it answers."""
        with self.listening() as listener:

            def send() -> None:
                connection, _ = listener.accept()
                with connection:
                    if self.fd >= 0:
                        sent = socket.send_fds(connection, [self.state], [self.fd])
                        connection.sendall(self.state[sent:])

            sender = threading.Thread(target=send)
            sender.start()
            answered = ask()
            sender.join()
        return answered

    def drop(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def kill(nydusd: Nydusd) -> None:
    nydusd.end(signal.SIGKILL)
