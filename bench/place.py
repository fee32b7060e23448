"""Where the benchmarks work, and what they run on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime
from pathlib import Path

from rich.console import Console

REPO = Path(__file__).resolve().parent.parent
#: generated trees, images and chunk caches; removed by `make clean`
WORK = REPO / "build" / "bench"
#: compiled programs; kept
CACHE = Path(os.environ.get("VHOSTFS_CACHE") or REPO / ".cache") / "bench"


class BenchError(Exception):
    """A benchmark cannot be run; the text says why."""


def first_line(*command: str) -> str:
    """The first line that a program prints about its version; '' when it is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return (done.stdout or done.stderr).strip(" *\n").split("\n")[0]


def describe_machine() -> str:
    """One paragraph: when, on what, how busy."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    revision = first_line("git", "-C", str(REPO), "describe", "--always", "--dirty")
    cpus = len(os.sched_getaffinity(0))
    load, *_ = os.getloadavg()
    return (
        f"{datetime.now():%Y-%m-%d %H:%M}, {cpus} CPUs {cpu[1] if cpu else platform.machine()}, "
        f"{int(memory[1]) >> 20 if memory else 0} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, vhostfs {revision}, load {load:.1f}"
    )


def console() -> Console:
    """For a terminal its width; for a file or pipe one that no table is cut to."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=160)
