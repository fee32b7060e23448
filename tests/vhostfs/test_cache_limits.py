"""A cache much smaller than the image: readers on several queues get right bytes, never zeros, never EIO.

On a small file system of its own: tmpfs, and ext4 on a loop device. In the middle, another program fills that
file system.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from rafs.limits import CacheLimits
from tests.native.host_mounts import clean_mounts, mount
from tests.native.rig import until
from tests.vhostfs.agent_here import agent_here, no_start
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.test_daemon import Guest, guest_of, serving
from vhostfs.daemon import Daemon
from virtqueue.fuse_client import FuseClient

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
        (point / "cache").mkdir()
        yield point


def disk_bytes(directory: Path) -> int:
    with os.scandir(directory) as entries:
        return sum(map(blocks_of, entries)) * 512


def blocks_of(entry: os.DirEntry[str]) -> int:
    with suppress(FileNotFoundError):  # gone since
        return entry.stat().st_blocks
    return 0


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


def read_all(client: FuseClient, number: int, big: Path, *, in_order: bool) -> None:
    """Read the whole file by one queue, several reads at once, and compare."""
    size, piece = big.stat().st_size, 128 << 10
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


#: reads the whole file by all readers: (in order)
ReadAll = Callable[[bool], Awaitable[None]]


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


async def read_through_a_small_cache(read: ReadAll, point: Path, sizes: Sizes) -> None:
    """By all readers at once, also while another program has filled the disk. The quota is kept."""
    with Watch(point / "cache") as watch:
        await read(True)
        await read(False)
        with OtherProgram(point / "other") as other:
            await asyncio.to_thread(other.is_full.wait, 60)
            await read(False)
        await read(True)
    assert 0 < watch.most <= sizes.quota * MIB


def reading(clients: list[FuseClient], big: Path) -> ReadAll:
    async def read(in_order: bool) -> None:
        readers = (
            asyncio.to_thread(read_all, client, number, big, in_order=in_order)
            for number, client in enumerate(clients)
        )
        await asyncio.gather(*readers)

    return read


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_right_bytes_within_the_quota_on_a_disk_that_fills_up(kind: str, tmp_path: Path) -> None:
    image = await asyncio.to_thread(build, tmp_path / "image", SMALL.image)
    with small_file_system(kind, tmp_path, SMALL.file_system) as point:
        options = image.options(
            tmp_path,
            cache_dir=point / "cache",
            num_request_queues=READERS,
            cache_limits=CacheLimits(quota=SMALL.quota * MIB),
        )
        async with serving(options) as daemon, guest_of(daemon, queues=READERS) as guest:
            await read_through_a_small_cache(reading(guest.clients, image.source / "big"), point, SMALL)
            statistics = await daemon.statistics()
    assert statistics["failed_misses"] == 0 and statistics["fetch_failed_chunks"] == 0
    assert statistics["cache_evicted_chunks"] > 100 and statistics["cache_spilled_chunks"] > 0


async def test_the_successor_of_an_agent_has_a_memory_of_its_own(tmp_path: Path) -> None:
    """On a full disk, a chunk that the new agent fetched is found by a worker of the old one."""
    image = await asyncio.to_thread(build, tmp_path / "image", 8)
    big = (image.source / "big").read_bytes()
    with small_file_system("tmpfs", tmp_path, 2) as point:
        options = image.options(tmp_path, cache_dir=point / "cache")
        async with AsyncExitStack() as stack:
            first = AsyncExitStack()
            await first.enter_async_context(agent_here(options.cache_dir))
            daemon = await stack.enter_async_context(Daemon(options, no_start))
            guest = await stack.enter_async_context(guest_of(daemon))
            nodeid = await asyncio.to_thread(lambda: guest.fuse.walk(b"/big").nodeid)
            with OtherProgram(point / "other") as other:
                await asyncio.to_thread(other.is_full.wait, 60)
                for offset in range(0, 3 * MIB, MIB):
                    assert await asyncio.to_thread(guest.fuse.read, nodeid, offset, MIB) == big[offset:][:MIB]
                await first.aclose()
                await stack.enter_async_context(agent_here(options.cache_dir))
                for offset in range(4 * MIB, 7 * MIB, MIB):
                    assert await asyncio.to_thread(guest.fuse.read, nodeid, offset, MIB) == big[offset:][:MIB]
                assert (await daemon.statistics())["cache_spilled_chunks"] >= 8


async def test_an_agent_s_own_limits_go_before_those_of_daemons(tmp_path: Path) -> None:
    image = await asyncio.to_thread(build, tmp_path / "image", 8)
    big = (image.source / "big").read_bytes()
    options = image.options(tmp_path)
    limits = CacheLimits(quota=4 * MIB)
    async with agent_here(options.cache_dir, cache_limits=limits), Daemon(options, no_start) as daemon:
        async with guest_of(daemon) as guest:
            assert await asyncio.to_thread(guest.read, b"/big") == big
        assert 0 < disk_bytes(options.cache_dir) <= 4 * MIB


@contextmanager
def serve_processes(image: BuiltImage, where: Path, cache: Path, quota: int) -> Iterator[list[Guest]]:
    """A `vhostfs serve` for each reader, all with the same cache, and a front-end of each."""
    with ExitStack() as stack:
        guests = []
        for number in range(READERS):
            socket = where / f"sock-{number}"
            command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--socket", socket]
            command += ["--bootstrap", image.bootstrap, "--blob-dir", image.blob_dir, "--cache-dir", cache]
            command += ["--cache-quota", f"{quota}MiB", "--statistics", where / f"statistics-{number}"]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.terminate)
            until(socket.exists)
            guests.append(Guest(str(socket)))
            stack.callback(guests[-1].close)
        yield guests


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_four_processes_read_half_a_gigabyte_through_64_mib(kind: str, tmp_path: Path) -> None:
    image = await asyncio.to_thread(build, tmp_path / "image", FULL.image)
    with small_file_system(kind, tmp_path, FULL.file_system) as point:
        with serve_processes(image, tmp_path, point / "cache", FULL.quota) as guests:
            clients = [guest.fuse for guest in guests]
            await read_through_a_small_cache(reading(clients, image.source / "big"), point, FULL)
        for path in tmp_path.glob("statistics-*"):
            statistics = json.loads(path.read_text())
            print(kind, {name: value for name, value in statistics.items() if value})
            assert statistics["failed_misses"] == 0 and statistics["fetch_failed_chunks"] == 0
