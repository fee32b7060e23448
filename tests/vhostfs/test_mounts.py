"""Mounts of a session: side by side, in turn, cancelled, failed; and that nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from rafs.backend import LocalBackend
from tests.vhostfs.conftest import BuiltImage, GatedBackend
from tests.vhostfs.session import resources, session
from tests.vhostfs.test_daemon import Guest, until
from vhostfs.agent import server
from vhostfs.mounts import AlreadyMounted, MountError, MountRequest, NotMounted, normalize
from vhostfs.nydusd.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "path"),
    [("/a", "/a"), ("/a/", "/a"), ("//a///b/", "/a/b"), ("/", "/"), ("/a b+c", "/a b+c"), ("/...", "/...")],
)
def test_one_spelling(given: str, path: str) -> None:
    assert normalize(given) == path


@pytest.mark.parametrize("given", ["", "a", "a/b", "/a/../b", "/./a", "/a/..", "/a\0b"])
def test_what_is_no_mountpoint(given: str) -> None:
    with pytest.raises(MountError, match="is no mountpoint"):
        normalize(given)


async def test_images_and_directories_side_by_side(image: BuiltImage, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "file").write_text("from the host")
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/containers", s.shared("host"))
        await s.mounts.mount("/rafs/a/lowerdir", s.request(snapshot="1"))
        await s.mounts.mount("/rafs/b/lowerdir/", s.request(snapshot="2"))
        assert await s.names("/") == {"containers", "rafs"}
        assert await s.names("/rafs") == {"a", "b"}
        assert await s.names("/containers") == {"file"}
        expected = (image.source / "big").read_bytes()
        for name in "ab":
            assert await s.read(f"/rafs/{name}/lowerdir/big") == expected
        await s.mounts.umount("//rafs/a/lowerdir")
        assert await s.read("/rafs/b/lowerdir/dir/file2") == b"content 2\n"
        assert [mount.mountpoint for mount in s.mounts] == ["/containers", "/rafs/b/lowerdir"]


async def test_images_share_what_they_have_in_common(image: BuiltImage, tmp_path: Path) -> None:
    """Same back-end and cache: a chunk is fetched once. Another cache directory: it is not theirs."""
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/1", s.request(snapshot="1"))
        await s.mounts.mount("/2", s.request(snapshot="2"))
        await s.mounts.mount("/3", s.request(snapshot="3", cache="other"))
        first, second, third = [s.mounts.at(f"/{n}").instance for n in (1, 2, 3)]
        assert first and second and third
        for number in (1, 2, 3):
            assert await s.read(f"/{number}/big") == (image.source / "big").read_bytes()
        for cache in ("cache", "other"):
            assert s.agent(cache).store.statistics()["fetched_chunks"] == 17
        reads = first.counters.read()
        assert reads.reads > 0 and reads.missed_reads > 0 and reads.read_bytes == (1 << 20) + 5
        assert second.counters.read().missed_reads == 0
        await s.mounts.umount("/1")
        assert await s.read("/2/dir/file9") == b"content 9\n"


async def test_what_is_refused_changes_nothing(image: BuiltImage, tmp_path: Path) -> None:
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/a/b", s.request())
        with pytest.raises(AlreadyMounted, match="/a/b: already exists"):
            await s.mounts.mount("/a/b/", s.request())
        with pytest.raises(AlreadyMounted, match="there are mounts below"):
            await s.mounts.mount("/a", s.request())
        with pytest.raises(MountError, match="through another mount"):
            await s.mounts.mount("/a/b/c", s.shared())
        with pytest.raises(NotMounted, match="/nothing: not found"):
            await s.mounts.umount("/nothing")
        with pytest.raises(NotMounted):
            await s.mounts.umount("/a")
        with pytest.raises(ConfigError, match=r"device\.backend: must be given"):
            await s.mounts.mount("/c", MountRequest(fs_type="rafs", source="x", config='{"device": {}}'))
        with pytest.raises(MountError, match="fs_type 'ext4'"):
            await s.mounts.mount("/c", MountRequest(fs_type="ext4", source="x"))
        with pytest.raises(MountError, match="not a directory"):
            await s.mounts.mount("/c", MountRequest(fs_type="passthrough", source="/etc/passwd"))
        assert await s.read("/a/b/dir/file1") == b"content 1\n"
        assert [mount.mountpoint for mount in s.mounts] == ["/a/b"]


async def test_found_by_mountpoint_or_configuration(image: BuiltImage, tmp_path: Path) -> None:
    """Contract 4.7: with and without a leading slash; without a name only when there is no doubt."""
    async with session(tmp_path, image) as s:
        assert s.mounts.rafs(None) is None
        await s.mounts.mount("/containers", s.shared())
        assert s.mounts.rafs(None) is None and s.mounts.rafs("/containers") is None
        await s.mounts.mount("/one", s.request(snapshot="1"))
        one = s.mounts.at("/one")
        for name in (None, "/one", "one", "/one/", "/1", "1"):
            assert s.mounts.rafs(name) is one
        await s.mounts.mount("/two", s.request(snapshot="2"))
        assert s.mounts.rafs(None) is None and s.mounts.rafs("1") is one and s.mounts.rafs("3") is None


async def test_another_image_in_its_place(image: BuiltImage, tmp_path: Path) -> None:
    other = tmp_path / "blobs"
    shutil.copytree(image.blob_dir, other)
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/a", s.request(snapshot="1"))
        held = await asyncio.to_thread(s.guest.fuse.walk, b"/a/dir")
        await s.mounts.remount("/a", s.request(snapshot="2", blob_dir=other, cache="other"))
        assert s.mounts.at("/a").config_id == "/2"
        assert await s.read("/a/big") == (image.source / "big").read_bytes()
        with pytest.raises(OSError, match="Stale"):
            await asyncio.to_thread(s.guest.fuse.getattr, held.nodeid)
        with pytest.raises(MountError, match="No such file"):
            await s.mounts.remount("/a", MountRequest(fs_type="rafs", source="/x", config=s.request().config))
        assert await s.read("/a/dir/file3") == b"content 3\n"
        await s.mounts.mount("/containers", s.shared())
        for path, request in (("/containers", s.request()), ("/a", s.shared())):
            with pytest.raises(MountError, match="only images"):
                await s.mounts.remount(path, request)
        with pytest.raises(NotMounted):
            await s.mounts.remount("/b", s.request())


# What takes its time


class SlowTail(LocalBackend):
    """A directory whose blobs cannot be opened before `gate` is."""

    gate: asyncio.Event
    waiting = 0

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        type(self).waiting += 1
        await self.gate.wait()
        return await super().read_range(blob_id, offset, length, again=again)


@pytest.fixture
def slow(image: BuiltImage, monkeypatch: pytest.MonkeyPatch) -> type[SlowTail]:
    class Slow(SlowTail):
        pass

    monkeypatch.setattr(server, "make_backend", lambda backend, pool: Slow(image.blob_dir))
    return Slow


async def test_a_slow_mount_holds_up_nobody_else(
    image: BuiltImage, tmp_path: Path, slow: type[SlowTail]
) -> None:
    slow.gate = asyncio.Event()
    async with session(tmp_path, image) as s:
        mounting = asyncio.create_task(s.mounts.mount("/slow", s.request()))
        await until(lambda: slow.waiting > 0)
        await s.mounts.mount("/containers", s.shared())
        assert await s.names("/") == {"containers"}
        # the same place is waited for, and then is taken
        again = asyncio.create_task(s.mounts.mount("/slow", s.request()))
        await asyncio.sleep(0)
        assert not again.done()
        slow.gate.set()
        await mounting
        with pytest.raises(AlreadyMounted):
            await again


async def test_who_gives_up_leaves_nothing(image: BuiltImage, tmp_path: Path, slow: type[SlowTail]) -> None:
    """Kata waits 30 s for a mount, and tries again later or not at all (gotcha 9)."""
    slow.gate = asyncio.Event()
    async with session(tmp_path, image) as s:
        before = (0, 0)
        for number in range(20):
            if number == 3:  # the agents are there
                before = resources()
            mounting = asyncio.create_task(s.mounts.mount("/slow", s.request(cache=f"cache{number % 3}")))
            await until(lambda begun=number: slow.waiting > begun)  # type: ignore[misc]
            mounting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mounting
        assert list(s.mounts) == []
        await until(lambda: resources() <= before)
        slow.gate.set()
        await s.mounts.mount("/slow", s.request())
        assert await s.read("/slow/dir/file1") == b"content 1\n"


async def test_cancelled_at_any_await(image: BuiltImage, tmp_path: Path) -> None:
    """A mount is there or it is not; an umount that was begun is done; and nothing is held."""
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/warm", s.request())
        await s.read("/warm/big")  # what the first miss opens stays open
        before = resources()
        for turns in range(60):
            task = asyncio.create_task(s.mounts.mount("/a", s.request()))
            await run_loop(turns)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            if list(s.mounts)[1:]:
                assert await s.read("/a/dir/file1") == b"content 1\n"
                task = asyncio.create_task(s.mounts.umount("/a"))
                await run_loop(turns % 10)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            with suppress(NotMounted):
                await s.mounts.umount("/a")
            with pytest.raises(FileNotFoundError):
                await s.read("/a/dir/file1")
        await until(lambda: resources() <= before)


async def run_loop(turns: int) -> None:
    """Let other tasks come this far: turns of the loop, and from the tenth on also of the threads."""
    for turn in range(turns):
        if turn >= 10:
            await asyncio.to_thread(os.sched_yield)
        await asyncio.sleep(0)


async def test_an_umount_ends_reads_that_wait(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = GatedBackend(image.blob_dir)
    monkeypatch.setattr(server, "make_backend", lambda *_: backend)
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/a", s.request())
        big = await asyncio.to_thread(s.guest.fuse.walk, b"/a/big")
        waiting = await asyncio.to_thread(s.guest.fuse.submit_read, big.nodeid, 0, 4096)
        await until(lambda: backend.waiting > 0)
        await s.mounts.umount("/a")
        with pytest.raises(OSError):  # ESTALE or EIO
            await asyncio.to_thread(s.guest.fuse.wait, waiting)


async def test_a_thousand_cycles_leave_nothing(image: BuiltImage, tmp_path: Path) -> None:
    """While a guest reads another mount."""
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/stays", s.request(snapshot="stays"))
        await s.read("/stays/big")
        stop = threading.Event()
        reading = asyncio.get_running_loop().run_in_executor(None, read_on, s.guest, stop)

        async def cycle(number: int) -> None:
            path = f"/rafs/{number % 7}/lowerdir"
            image = s.request(snapshot=str(number), cache=f"c{number % 5}", prefetch=number % 3 == 0)
            request = s.shared() if number % 2 else image
            await s.mounts.mount(path, request)
            await s.mounts.umount(path)

        for number in range(40):
            await cycle(number)
        before = resources()
        for number in range(1000):
            await cycle(number)
        await until(lambda: resources() <= before)
        stop.set()
        assert await reading > 1000


def read_on(guest: Guest, stop: threading.Event) -> int:
    """Read a file until told to stop; how often that went well."""
    entry = guest.fuse.walk(b"/stays/dir/file7")
    count = 0
    while not stop.is_set():
        assert guest.fuse.read(entry.nodeid, 0, 4096) == b"content 7\n"
        count += 1
    return count
