"""Agents as processes: who serves a directory, and what becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import REPO
from vhostfs.agent.place import FOLDER, LOCK, LOG

PATIENCE_S = 30


def wait_until(condition: Callable[[], bool], what: str = "it") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen")
        time.sleep(0.002)


def agent_pid(cache_dir: Path) -> int:
    """The process that serves a directory; waits for one."""
    found: list[int] = []

    def look() -> bool:
        with suppress(FileNotFoundError, ValueError):
            pid = int((cache_dir / FOLDER / LOCK).read_text())
            if is_running(pid) and (cache_dir / FOLDER / "socket").exists():
                found.append(pid)
        return bool(found)

    wait_until(look, f"an agent for {cache_dir}")
    return found[0]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its memory."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_agent(cache_dir: Path) -> int:
    """Kill the one that serves, and return which that was."""
    pid = agent_pid(cache_dir)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the end of an agent")
    return pid


def agent_log(cache_dir: Path) -> str:
    return (cache_dir / FOLDER / LOG).read_text()


@contextmanager
def agent_process(
    cache_dir: Path, *words: str, pass_fds: Sequence[int] = (), program: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """`vhostfs agent`, killed at the end if it is there still."""
    command = [
        *(program or (sys.executable, "-m", "vhostfs", "agent")),
        "--cache-dir",
        str(cache_dir),
        *words,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, pass_fds=pass_fds, cwd=REPO)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
