"""What a process costs: CPU time and memory out of /proc, and of a command that has ended."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.place import BenchError

KIB = 1024


def tree_of(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += tree_of(int(child))
    return found


def cpu_s(pid: int) -> float:
    """CPU time of a process and its children so far, of the threads that still are."""
    nanoseconds = 0
    for one in tree_of(pid):
        for schedstat in Path(f"/proc/{one}/task").glob("*/schedstat"):
            nanoseconds += int(schedstat.read_text().split()[0])
    return nanoseconds / 1e9


def memory(pid: int) -> dict[str, int]:
    """Rss, Pss and more of /proc/PID/smaps_rollup, in bytes, summed over the process and its children."""
    total: dict[str, int] = {}
    for one in tree_of(pid):
        for name, kib in re.findall(
            r"^(\w+): +(\d+) kB", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M
        ):
            total[name] = total.get(name, 0) + int(kib) * KIB
    return total


def peak_rss(pid: int) -> int:
    """VmHWM in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * KIB if found else 0


@dataclass(frozen=True)
class Cost:
    """Of a pipeline of commands, from start to the end of the last."""

    wall_s: float
    cpu_s: float  # user and system, all of them
    peak_rss: int  # bytes, the sum of the peaks


def run(pipeline: Sequence[Sequence[str | Path]], output: Path | None = None) -> Cost:
    """Run commands, each reading what the one before writes; the last one's output goes to a file.

    Raises BenchError when one of them fails.
    """
    started = time.monotonic()
    processes: list[subprocess.Popen[bytes]] = []
    sink = output.open("wb") if output else None
    for number, command in enumerate(pipeline):
        is_last = number == len(pipeline) - 1
        processes.append(
            subprocess.Popen(
                [str(part) for part in command],
                stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
                stdout=(sink or subprocess.DEVNULL) if is_last else subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        )
        previous = processes[-2].stdout if number else None
        if previous:
            previous.close()
    cpu_s, peak = 0.0, 0
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu_s += usage.ru_utime + usage.ru_stime
        peak += usage.ru_maxrss * KIB
    wall_s = time.monotonic() - started
    if sink:
        sink.close()
    for process, command in zip(processes, pipeline, strict=True):
        if process.returncode:
            raise BenchError(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return Cost(wall_s, cpu_s, peak)
