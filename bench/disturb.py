"""`python -m bench.disturb FOLDER`: the storm of bench/storm.py made by a process of the host, until SIGTERM.

As many writers that make each 4 KiB durable, writes of 128 KiB, copies of 1 MiB and reads of 128 KiB at a
time, on the same files: what the machine's processors and disk cost a neighbour, with no back-end in between.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.place import BenchError

SYNCS, WRITES, COPIES, READS = 4, 2, 2, 4
MIB = 1 << 20


def write_and_sync(fd: int, size: int) -> None:
    os.pwrite(fd, os.urandom(64) * 64, random.randrange(size // 4096) * 4096)
    os.fdatasync(fd)


def write(fd: int, size: int) -> None:
    os.pwrite(fd, bytes(128 << 10), random.randrange(size // (128 << 10)) * (128 << 10))


def copy(fd: int, size: int) -> None:
    at = random.randrange(size // 2 // MIB) * MIB
    os.copy_file_range(fd, fd, MIB, at, size // 2 // MIB * MIB + at)


def read(fd: int, size: int) -> None:
    os.pread(fd, 128 << 10, random.randrange(size // (128 << 10)) * (128 << 10))


def over_and_over(path: Path, action: Callable[[int, int], None]) -> None:
    fd = os.open(path, os.O_RDWR)
    size = path.stat().st_size
    while True:
        action(fd, size)


@contextmanager
def storm(folder: Path) -> Iterator[None]:
    """It goes on while the block runs. Raises BenchError if it did not."""
    with subprocess.Popen([sys.executable, "-m", "bench.disturb", folder], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # it has begun
        try:
            yield
        finally:
            has_ended = process.poll() is not None
            process.terminate()
    if has_ended:
        raise BenchError("the storm of the host was over too soon")


def main() -> int:
    folder = Path(sys.argv[1])
    for name, action, count in (
        ("synced", write_and_sync, SYNCS),
        ("written", write, WRITES),
        ("copied", copy, COPIES),
        ("cold", read, READS),
    ):
        for _ in range(count):
            threading.Thread(target=over_and_over, args=(folder / name, action), daemon=True).start()
    print("begun", flush=True)
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
