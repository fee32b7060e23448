"""A disk that is full when a blob is opened: it is served from memory, and from the disk the next time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from rafs.limits import CacheLimits
from tests.fakes.blob_store import COUNT, FAKE, SIZES, data_of, running
from tests.fakes.blobs import BLOB_ID, MemoryBackend, make_blob, make_chunks
from tests.native.host_mounts import clean_mounts, mount

OTHER = make_blob(make_chunks([40_000] * 8, seed=9), blob_id="cd" * 32)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: FAKE.content, "cd" * 32: OTHER.content})


@contextmanager
def small_disk(where: Path, kib: int = 512) -> Iterator[Path]:
    point = where / "disk"
    point.mkdir()
    with clean_mounts(where):
        mount("tmpfs", point, "tmpfs", data=f"size={kib}k")
        (point / "cache").mkdir()
        yield point / "cache"


def fill_up(cache: Path) -> Path:
    path = cache.parent / "other"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


async def test_a_blob_of_a_full_disk_is_served_from_memory(
    tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path, kib=4096) as cache:
        other = fill_up(cache)
        async with running(cache, backend) as run:
            for index in range(COUNT):
                await run.miss(index)
                memory = os.pread(run.blob.space.memory.data_fd, SIZES[index], FAKE.offsets[index])
                assert memory == FAKE.chunks[index]
            assert run.ready() == set(range(COUNT))
            assert run.statistics("failed_chunks", "spilled_chunks", "verified_chunks") == [0, COUNT, COUNT]
            assert "it is served from memory" in caplog.text
        other.unlink()
        async with running(cache, backend) as run:
            await run.store.fill(run.blob)
            assert run.statistics("spilled_chunks") == [0]
        assert data_of(cache) == FAKE.image()


async def test_metadata_that_has_no_room_is_kept_in_memory(tmp_path: Path, backend: MemoryBackend) -> None:
    """The disk is full by the time that the digests come."""
    with small_disk(tmp_path) as cache:
        async with running(cache, backend) as run:
            fill_up(cache)
            await run.miss(2, 3)
            assert run.ready() == {2, 3, 4}
            assert run.statistics("failed_chunks", "verified_chunks") == [0, 3]
        assert not (cache / f"{BLOB_ID}.blob.digest").exists()


async def test_what_nobody_uses_makes_room_to_open(tmp_path: Path, backend: MemoryBackend) -> None:
    with small_disk(tmp_path, kib=4096) as cache:
        async with running(cache, backend, OTHER) as run:
            await run.store.fill(run.blob)
        fill_up(cache)
        async with running(cache, backend, cache_limits=CacheLimits(min_free=0)) as run:
            run.governor.tend()
            assert not list(cache.glob(f"{'cd' * 32}*")) and run.statistics("removed_bytes")[0] > 320_000
            await run.miss(1)
            assert run.blob.native.is_on_disk(1)


async def test_two_that_share_memory_share_its_bound(tmp_path: Path, backend: MemoryBackend) -> None:
    with small_disk(tmp_path) as cache:
        fill_up(cache)
        async with running(cache, backend, cache_limits=CacheLimits(memory=400_000)) as run:
            other = await run.store.open_blob(BLOB_RECORD.parse(OTHER.entry))
            for index in range(8):
                await run.store.fill(other, index, 1)
            await run.store.fill(run.blob, 6, 1)
            assert run.blob.native.is_ready(6)
            assert run.statistics("memory_bytes")[0] <= 400_000
            assert other.native.ready_count() < 8
