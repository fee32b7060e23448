"""The whole daemon in one process: a driver-side mock on the socket, real image, cache and data plane."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from rafs.backend import BlobBackend
from rafs.backend.config import LocalFs, backend_of
from tests.vhostfs.agent_here import agent_here, no_start
from tests.vhostfs.conftest import BuiltImage, GatedBackend
from vhostfs.daemon import Daemon
from vhostfs.options import ServeOptions
from vhostfs.runtime import StartError
from virtqueue.frontend import Frontend
from virtqueue.fuse_client import FuseClient
from virtqueue.guest_memory import GuestMemory


class Guest:
    """A front-end with a request queue and a FUSE session; its calls block, so they run in threads."""

    def __init__(self, socket: str, *, queues: int = 1) -> None:
        self.memory = GuestMemory()
        self.frontend = Frontend.connect(socket)
        self.frontend.negotiate()
        self.frontend.share(self.memory)
        self.frontend.start_vring(0, self.memory)
        drivers = [self.frontend.start_vring(1 + index, self.memory) for index in range(queues)]
        self.clients = [FuseClient(driver, indirect=True) for driver in drivers]
        self.fuse = self.clients[0]
        self.fuse.init()

    def read(self, path: bytes) -> bytes:
        entry = self.fuse.walk(path)
        return self.fuse.read_file(entry.nodeid, entry.attr.size)

    def close(self) -> None:
        self.frontend.close()
        self.memory.close()


@asynccontextmanager
async def serving(options: ServeOptions, backend: BlobBackend | None = None) -> AsyncIterator[Daemon]:
    """The daemon, and its agent in this process."""
    async with agent_here(options.cache_dir, backend), Daemon(options, no_start) as daemon:
        yield daemon


@asynccontextmanager
async def guest_of(daemon: Daemon, *, queues: int = 1) -> AsyncIterator[Guest]:
    guest = await asyncio.to_thread(lambda: Guest(daemon.options.socket or "", queues=queues))
    try:
        yield guest
    finally:
        await asyncio.to_thread(guest.close)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something has happened, 10 s at most."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_reads_a_file_cold_and_warm(image: BuiltImage, tmp_path: Path) -> None:
    expected = (image.source / "big").read_bytes()
    async with serving(image.options(tmp_path)) as daemon, guest_of(daemon) as guest:
        assert await asyncio.to_thread(guest.read, b"/big") == expected
        cold = await daemon.statistics()
        assert await asyncio.to_thread(guest.read, b"/big") == expected
        warm = await daemon.statistics()
    assert cold["fetch_fetched_chunks"] == 17 and cold["fetch_verified_chunks"] == 17
    assert warm["fetch_fetched_chunks"] == 17 and warm["misses"] == cold["misses"]


async def test_a_second_daemon_finds_the_cache_warm(image: BuiltImage, tmp_path: Path) -> None:
    async with serving(image.options(tmp_path)) as daemon, guest_of(daemon) as guest:
        await asyncio.to_thread(guest.read, b"/big")
    async with serving(image.options(tmp_path)) as daemon, guest_of(daemon) as guest:
        assert await asyncio.to_thread(guest.read, b"/big") == (image.source / "big").read_bytes()
        assert (await daemon.statistics())["fetch_fetched_chunks"] == 0


async def test_a_hit_overtakes_a_miss_on_the_same_queue(image: BuiltImage, tmp_path: Path) -> None:
    backend = GatedBackend(image.blob_dir)
    async with serving(image.options(tmp_path), backend) as daemon, guest_of(daemon) as guest:
        fuse = guest.fuse
        big = await asyncio.to_thread(fuse.walk, b"/big")
        unique = await asyncio.to_thread(fuse.submit_read, big.nodeid, 0, 4096)
        await until(lambda: backend.waiting > 0)
        assert (await asyncio.to_thread(fuse.walk, b"/dir/file7")).attr.size == 10
        backend.gate.set()
        assert await asyncio.to_thread(fuse.wait, unique) == (image.source / "big").read_bytes()[:4096]


async def test_a_failed_fetch_is_eio_and_the_next_read_tries_again(image: BuiltImage, tmp_path: Path) -> None:
    backend = GatedBackend(image.blob_dir)
    backend.gate.set()
    backend.broken = True
    async with serving(image.options(tmp_path), backend) as daemon, guest_of(daemon) as guest:
        with pytest.raises(OSError) as caught:
            await asyncio.to_thread(guest.read, b"/big")
        assert caught.value.errno == errno.EIO
        backend.broken = False
        assert await asyncio.to_thread(guest.read, b"/big") == (image.source / "big").read_bytes()


async def test_a_guest_waits_no_longer_than_the_deadline(image: BuiltImage, tmp_path: Path) -> None:
    backend = GatedBackend(image.blob_dir)
    options = image.options(tmp_path, miss_timeout_s=0.05)
    async with serving(options, backend) as daemon, guest_of(daemon) as guest:
        with pytest.raises(OSError) as caught:
            await asyncio.to_thread(guest.read, b"/big")
        assert caught.value.errno == errno.EIO
        assert (await daemon.statistics())["failed_misses"] > 0


async def test_ends_while_reads_wait_for_their_chunks(image: BuiltImage, tmp_path: Path) -> None:
    backend = GatedBackend(image.blob_dir)
    async with serving(image.options(tmp_path), backend) as daemon:
        guest = await asyncio.to_thread(Guest, str(daemon.options.socket))
        big = await asyncio.to_thread(guest.fuse.walk, b"/big")
        for offset in range(0, 1 << 20, 1 << 17):
            await asyncio.to_thread(guest.fuse.submit_read, big.nodeid, offset, 4096)
        await until(lambda: daemon.device.statistics()["misses"] == 8)
    assert not Path(daemon.options.socket or "").exists()
    assert replies(guest) == [errno.EIO] * 8  # every request that was taken got its reply
    guest.close()


def replies(guest: Guest) -> list[int]:
    """The errors of all replies that still stand in the used ring."""
    errors = []
    while guest.fuse.in_flight:
        unique = guest.fuse.wait_any(timeout=1)
        try:
            guest.fuse.wait(unique)
        except OSError as error:
            errors.append(error.errno or 0)
    return errors


async def test_front_ends_come_and_vanish_and_leave_nothing(image: BuiltImage, tmp_path: Path) -> None:
    async with serving(image.options(tmp_path)) as daemon:
        expected = (image.source / "dir" / "file3").read_bytes()

        async def cycle(number: int) -> None:
            guest = await asyncio.to_thread(Guest, str(daemon.options.socket))
            assert await asyncio.to_thread(guest.read, b"/dir/file3") == expected
            if number % 2:  # with requests under way
                big = await asyncio.to_thread(guest.fuse.walk, b"/big")
                for offset in range(0, 1 << 20, 1 << 16):
                    guest.fuse.submit_read(big.nodeid, offset, 65536)
            guest.close()

        for number in range(10):
            await cycle(number)
        before = await settled_resources()
        for number in range(200):
            await cycle(number)
        assert await settled_resources() == before


async def settled_resources() -> tuple[int, int, int]:
    """(descriptors, mappings of guest memory, queue threads), once the last front-end is cleared away."""
    await until(lambda: resources()[1:] == (0, 0))
    return resources()


def resources() -> tuple[int, int, int]:
    maps = Path("/proc/self/maps").read_text()
    queues = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended between the two looks
            queues += (task / "comm").read_text().startswith("vfs-queue")
    guests = sum("/memfd:" in line and "/memfd:vhostfs-" not in line for line in maps.splitlines())
    return len(os.listdir("/proc/self/fd")), guests, queues  # noqa: PTH208 (no need for paths)


async def test_the_socket_is_private_and_goes_at_the_end(image: BuiltImage, tmp_path: Path) -> None:
    async with serving(image.options(tmp_path)):
        mode = (tmp_path / "sock").stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / "sock").exists()


async def test_metadata_that_would_fill_the_memory_is_refused(image: BuiltImage, tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate((1 << 30) + 4096)
    with pytest.raises(StartError, match="huge: 1073745920 bytes of metadata; at most 1073741824"):
        await Daemon(image.options(tmp_path, bootstrap=huge), no_start).__aenter__()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bootstrap": Path("/nonexistent/boot")}, "/nonexistent/boot: No such file"),
        ({"bootstrap": Path("/etc/passwd")}, "/etc/passwd: not a bootstrap"),
        ({"backend": backend_of("localfs", LocalFs(dir="/nonexistent"))}, "/nonexistent"),
        ({"socket": "/nonexistent/sock"}, "/nonexistent"),
        ({"tag": "x" * 37}, "tag"),
    ],
)
async def test_a_bad_start_says_what_is_wrong(
    image: BuiltImage, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    threads = threading.active_count()
    with pytest.raises(StartError, match=reason):
        async with serving(image.options(tmp_path, **changes)):
            pass
    assert threading.active_count() <= threads + 4  # the loop's own workers
    assert not (tmp_path / "sock").exists()
