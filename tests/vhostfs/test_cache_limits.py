"""A cache much smaller than the image: readers on several queues get right bytes, never zeros, never EIO.

The whole daemon in one process, on a small file system of its own: tmpfs, and ext4 on a loop device. In the
middle, another program fills that file system.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rafs.limits import CacheLimits
from tests.native.host_mounts import clean_mounts, mount
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.test_daemon import Guest, guest_of, serving

MIB = 1 << 20
READERS = 4


@dataclass(frozen=True)
class Sizes:
    """In MiB."""

    image: int
    file_system: int
    quota: int


SMALL, FULL = Sizes(48, 20, 8), Sizes(512, 64, 40)


def build(top: Path, size: int) -> BuiltImage:
    """One file that does not compress, of chunks of 256 KiB."""
    (top / "source").mkdir(parents=True)
    with (top / "source" / "big").open("wb") as file:
        for number in range(size):
            file.write(random.Random(number).randbytes(MIB))
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "build", top / "source"]
    command += ["--chunk-size", "256KiB", "--compressor", "none"]
    subprocess.run([*command, "--bootstrap", top / "boot", "--blob-dir", top / "blobs"], check=True)
    return BuiltImage(top / "source", top / "boot", top / "blobs")


@contextmanager
def small_file_system(kind: str, where: Path, size: int) -> Iterator[Path]:
    point = where / "fs"
    point.mkdir()
    with clean_mounts(where):
        if kind == "tmpfs":
            mount("tmpfs", point, "tmpfs", data=f"size={size}m")
        else:
            device = where / "device"
            with device.open("wb") as file:
                file.truncate(size * MIB)
            subprocess.run([f"mkfs.{kind}", "-q", device], check=True)
            subprocess.run(["mount", "-o", "loop", device, point], check=True)
        yield point


def disk_bytes(directory: Path) -> int:
    with os.scandir(directory) as entries:
        return sum(entry.stat().st_blocks * 512 for entry in entries)


class Watch(threading.Thread):
    """Looks at a directory all the time; `most` is what it took at most. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._ending = threading.Event()
        self.most = 0

    def run(self) -> None:
        while not self._ending.wait(0.002):
            self.most = max(self.most, disk_bytes(self._directory))

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join()


def read_all(guest: Guest, number: int, big: Path, *, in_order: bool) -> None:
    """Read the whole file by one queue, several reads at once, and compare."""
    client, size, piece = guest.clients[number], big.stat().st_size, 128 << 10
    nodeid = client.walk(b"/big").nodeid
    offsets = list(range(0, size, piece))
    if in_order:  # each from a place of its own
        start = len(offsets) // READERS * number
        offsets = offsets[start:] + offsets[:start]
    else:
        random.Random(number).shuffle(offsets)
    with big.open("rb") as file:
        for at in range(0, len(offsets), 4):
            uniques = [(offset, client.submit_read(nodeid, offset, piece)) for offset in offsets[at : at + 4]]
            for offset, unique in uniques:
                data = client.wait(unique, timeout=60)
                if data != os.pread(file.fileno(), piece, offset):
                    raise AssertionError(f"reader {number}: wrong bytes at {offset}")


async def read_by_all(guest: Guest, big: Path, *, in_order: bool) -> None:
    readers = (asyncio.to_thread(read_all, guest, n, big, in_order=in_order) for n in range(READERS))
    await asyncio.gather(*readers)


class OtherProgram(threading.Thread):
    """Takes all that is free on a file system, and all that becomes free. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._ending = threading.Event()
        self.is_full = threading.Event()

    def run(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            while not self._ending.is_set():
                try:
                    file.write(bytes(16384))
                except OSError:
                    self.is_full.set()
                    self._ending.wait(0.002)
        self._path.unlink()

    def __enter__(self) -> OtherProgram:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join()


async def read_through_a_small_cache(kind: str, where: Path, sizes: Sizes) -> dict[str, int]:
    image = await asyncio.to_thread(build, where / "image", sizes.image)
    big = image.source / "big"
    with small_file_system(kind, where, sizes.file_system) as point:
        cache = point / "cache"
        cache.mkdir()
        options = image.options(
            where,
            cache_dir=cache,
            num_request_queues=READERS,
            cache_limits=CacheLimits(quota=sizes.quota * MIB),
        )
        async with serving(options) as daemon, guest_of(daemon, queues=READERS) as guest:
            with Watch(cache) as watch:
                await read_by_all(guest, big, in_order=True)
                await read_by_all(guest, big, in_order=False)
                with OtherProgram(point / "other") as other:
                    await asyncio.to_thread(other.is_full.wait, 60)
                    await read_by_all(guest, big, in_order=False)
                await read_by_all(guest, big, in_order=True)
            statistics = await daemon.statistics()
        assert 0 < watch.most <= sizes.quota * MIB
        return statistics


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_right_bytes_within_the_quota_on_a_disk_that_fills_up(kind: str, tmp_path: Path) -> None:
    statistics = await read_through_a_small_cache(kind, tmp_path, SMALL)
    assert statistics["failed_misses"] == 0 and statistics["fetch_failed_chunks"] == 0
    assert statistics["cache_evicted_chunks"] > 100 and statistics["cache_spilled_chunks"] > 0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_the_same_at_full_size(kind: str, tmp_path: Path) -> None:
    statistics = await read_through_a_small_cache(kind, tmp_path, FULL)
    print(kind, {name: value for name, value in statistics.items() if value})
    assert statistics["failed_misses"] == 0 and statistics["fetch_failed_chunks"] == 0
