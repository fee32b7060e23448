"""The governor: within its limits by what the file system says, and never out of service."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from rafs import spill as spill_module
from rafs.cache_dir import CacheDir
from rafs.limits import CacheLimits
from tests.fakes.blob_store import running
from tests.fakes.blobs import BLOB_ID, NONE, MemoryBackend, make_blob, make_chunks

CHUNK = 64 << 10
COUNT = 64
FAKE = make_blob(make_chunks([CHUNK] * COUNT), codec=NONE)
OTHER_ID = "cd" * 32
OTHER = make_blob(make_chunks([CHUNK] * 16, seed=2), codec=NONE, blob_id=OTHER_ID)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: FAKE.content, OTHER_ID: OTHER.content})


def disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


async def test_the_quota_holds_all_the_time(tmp_path: Path, backend: MemoryBackend) -> None:
    limits = CacheLimits(quota=1 << 20)
    async with running(tmp_path, backend, FAKE, cache_limits=limits) as run:
        for _ in range(3):
            for first in range(0, COUNT, 4):
                await run.miss(first, 4)
                assert {first, first + 1, first + 2, first + 3} <= run.ready()
                assert disk_bytes(tmp_path) <= 1 << 20
        counted, evicted, failed, spilled = run.statistics(
            "cached_bytes", "evicted_chunks", "failed_chunks", "spilled_chunks"
        )
        assert counted == disk_bytes(tmp_path)
        assert (failed, spilled) == (0, 0) and evicted > 2 * COUNT


async def test_what_lay_there_before_counts_and_goes_too(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend, FAKE) as run:
        await run.store.fill(run.blob)
    assert disk_bytes(tmp_path) > COUNT * CHUNK
    limits = CacheLimits(quota=1 << 20)
    async with running(tmp_path, backend, FAKE, cache_limits=limits) as run:
        assert run.ready() == set(range(COUNT))
        run.governor.tend()
        assert disk_bytes(tmp_path) <= 1 << 20
        assert 8 <= len(run.ready()) < 16
        await run.store.fill(run.blob)
        assert disk_bytes(tmp_path) <= 1 << 20
    async with running(tmp_path, backend, FAKE, cache_limits=limits) as run:
        data = (tmp_path / f"{BLOB_ID}.blob.data").read_bytes()
        for index in run.ready():
            assert data[FAKE.offsets[index] :][:CHUNK] == FAKE.chunks[index]


async def test_blobs_that_nobody_uses_go_first(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend, OTHER) as run:
        await run.store.fill(run.blob)
    async with running(tmp_path, backend, FAKE, cache_limits=CacheLimits(quota=2 << 20)) as run:
        await run.miss(0, 20)
        assert len(run.ready()) == 20
        assert not list(tmp_path.glob(f"{OTHER_ID}*"))
        assert run.statistics("removed_blobs", "evicted_chunks") == [1, 0]
        assert run.statistics("removed_bytes")[0] > 16 * CHUNK
        # one that another store of the process uses stays
        other = await run.store.open_blob(BLOB_RECORD.parse(OTHER.entry))
        await run.store.fill(other)
        await run.store.fill(run.blob)
        assert (tmp_path / f"{OTHER_ID}.blob.data").exists()
        assert disk_bytes(tmp_path) <= 2 << 20


async def test_free_space_is_kept(
    tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, backend, FAKE, cache_limits=CacheLimits(min_free=10 << 20)) as run:
        free = (10 << 20) + 40 * CHUNK

        def left() -> int:  # on a disk of that size whose only user is this cache
            return free - os.fstat(run.blob.cache.data_fd).st_blocks * 512

        monkeypatch.setattr(run.governor._accounts, "_free_bytes", left)
        await run.store.fill(run.blob)
        assert left() >= 10 << 20
        assert len(run.ready()) > 8
        free -= 30 * CHUNK  # somebody else
        run.governor.tend()
        assert left() >= 10 << 20
        free = 0
        [before] = run.statistics("spilled_chunks")
        await run.miss(3)
        await run.miss(4)
        assert {3, 4} <= run.ready()  # in memory
        assert run.statistics("spilled_chunks", "failed_chunks") == [before + 2, 0]


async def test_what_is_read_again_stays(tmp_path: Path, backend: MemoryBackend) -> None:
    """Two chunks that are read all the time, and everything once: the two are fetched twice at most."""
    async with running(tmp_path, backend, FAKE, cache_limits=CacheLimits(quota=3 << 20)) as run:
        visited = run.blob.space.memory.visited_fd
        favourites = {3, 17}
        await run.miss(3)
        await run.miss(17)
        fetched = 0
        for _ in range(4):
            for index in range(COUNT):
                fetched += len(favourites - run.ready())
                for wanted in (index, *favourites):
                    await run.miss(wanted)
                    (byte,) = os.pread(visited, 1, wanted // 8)
                    os.pwrite(visited, bytes([byte | 0x80 >> wanted % 8]), wanted // 8)
        assert fetched <= 2
        assert run.statistics("evicted_chunks")[0] > 2 * COUNT


async def test_a_full_disk_is_made_room_on(
    tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC and EDQUOT come whatever the limits say: chunks go, and the write is tried again."""
    async with running(tmp_path, backend, FAKE, cache_limits=CacheLimits(quota=1 << 30)) as run:
        await run.miss(0, 32)
        real, codes = os.pwrite, [errno.ENOSPC, errno.EDQUOT]

        def full(fd: int, data: bytes, offset: int) -> int:
            if fd == run.blob.cache.data_fd and disk_bytes(tmp_path) > 30 * CHUNK:
                raise OSError(codes[offset // CHUNK % 2], "full")
            return real(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", full)
        await run.miss(32, 4)
        assert set(range(32, 36)) <= run.ready()
        assert all(run.blob.native.is_on_disk(index) for index in range(32, 36))
        assert run.statistics("spilled_chunks", "failed_chunks") == [0, 0]
        assert run.statistics("evicted_chunks")[0] > 0


async def test_a_disk_with_errors_is_bypassed(
    tmp_path: Path,
    backend: MemoryBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(tmp_path, backend, FAKE) as run:
        await run.miss(0)

        real = os.pwrite

        def broken(fd: int, data: bytes, offset: int) -> int:
            if fd == run.blob.cache.data_fd:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", broken)
        await run.miss(1, 3)
        assert run.ready() == {0, 1, 2, 3}
        assert [r.levelno for r in caplog.records] == [logging.WARNING]  # once, not for each chunk
        assert "Input/output error; chunks are served from memory" in caplog.text


async def test_memory_is_bounded_and_given_back(tmp_path: Path, backend: MemoryBackend) -> None:
    limits = CacheLimits(quota=0, memory=4 * CHUNK)
    now = 100.0
    async with running(tmp_path, backend, FAKE, cache_limits=limits) as run:
        run.governor._spill._clock = lambda: now
        for index in range(10):
            await run.miss(index)
            assert index in run.ready()
            assert run.statistics("memory_bytes")[0] <= 4 * CHUNK
        assert run.ready() == {6, 7, 8, 9}
        memory = run.blob.space.memory.data_fd
        assert os.fstat(memory).st_blocks * 512 == 4 * CHUNK
        now += spill_module.KEEP_S / 2
        await run.miss(10)
        now += spill_module.KEEP_S / 2 + 1
        run.governor.tend()
        assert run.ready() == {10}
        assert os.fstat(memory).st_blocks * 512 == CHUNK
    assert run.governor.statistics()["memory_bytes"] == 0


async def test_two_stores_have_one_blob_open(tmp_path: Path, backend: MemoryBackend) -> None:
    """What one writes, the other's governor must not evict from under it: there is one guard."""
    directory = CacheDir(tmp_path)
    directory.join(CacheLimits(quota=1 << 20))
    async with running(tmp_path, backend, FAKE, cache_dir=directory) as one:
        async with running(tmp_path, backend, FAKE, cache_dir=directory) as other:
            assert one.blob is not other.blob and one.blob.space.guard is other.blob.space.guard
            await one.store.fill(one.blob)
            assert disk_bytes(tmp_path) <= 1 << 20
        await one.store.fill(one.blob)
        assert disk_bytes(tmp_path) <= 1 << 20
    directory.leave()


async def test_without_limits_nothing_is_evicted(
    tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes may share the directory then; a full disk costs unused blobs only."""
    async with running(tmp_path, backend, OTHER) as run:
        await run.store.fill(run.blob)
    async with running(tmp_path, backend, FAKE) as run:
        await run.miss(0, 8)
        assert run.governor.make_room(1 << 30) > 0
        assert not list(tmp_path.glob(f"{OTHER_ID}*"))
        assert run.governor.make_room(1 << 30) == 0
        assert run.ready() == set(range(8))


async def test_a_hole_that_cannot_be_punched_is_no_end(
    tmp_path: Path,
    backend: MemoryBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(tmp_path, backend, FAKE, cache_limits=CacheLimits(quota=1 << 20)) as run:
        await run.miss(0, 8)

        def unable(*_: object, **__: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "no holes here")

        with monkeypatch.context() as patch:
            patch.setattr(run.blob.native, "evict", unable)
            await run.miss(8, 12)
        assert set(range(8, 20)) <= run.ready()
        assert run.statistics("failed_chunks") == [0]
        assert "cannot evict from" in caplog.text
