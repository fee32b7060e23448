"""BlobStore: blobs are shared, closed and settled; upcalls wait when there is too much."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from rafs.errors import ImageCorrupt
from tests.fakes.blob_store import COUNT, FAKE, ONE_BY_ONE, SIZES, data_of, marker, running
from tests.fakes.blobs import (
    BLOB_ID,
    NONE,
    FakeBlob,
    MemoryBackend,
    make_blob,
    make_chunks,
)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: FAKE.content})


async def test_images_share_a_blob(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend) as run:
        again = await asyncio.gather(*(run.store.open_blob(BLOB_RECORD.parse(FAKE.entry)) for _ in range(2)))
        assert all(blob is run.blob for blob in again)
        assert run.statistics("open_blobs") == [1]
        other = BLOB_RECORD.parse(make_blob(make_chunks(SIZES[:-1])).entry)
        with pytest.raises(ImageCorrupt, match=f"{BLOB_ID}: chunk_count is 7, a mounted image says 8"):
            await run.store.open_blob(other)
        await run.store.close_blob(run.blob)
        await run.store.close_blob(run.blob)
        await run.miss(0)
        await run.store.close_blob(run.blob)
        assert run.statistics("open_blobs") == [0]
        assert not marker(tmp_path).exists()


async def test_closing_with_work_in_flight_fails_it_and_leaves_nothing(
    tmp_path: Path,
    backend: MemoryBackend,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    async with running(tmp_path, backend, limits=ONE_BY_ONE) as run:
        await run.miss(0)
        backend.gate = asyncio.Event()
        await run.asked(1, 4)
        while not backend.waiting:
            await asyncio.sleep(0)
        failed: list[tuple[int, int]] = []
        monkeypatch.setattr(run.blob.native, "fail", lambda *run: failed.append(run))
    assert failed == [(1, 4)]
    assert caplog.text == ""
    assert not marker(tmp_path).exists()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before + 1


async def test_a_blob_that_is_quiet_is_settled(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend) as run:
        await run.miss(0)
        assert marker(tmp_path).exists()
        backend.gate = asyncio.Event()
        await run.asked(1)
        await run.store.settle()
        assert marker(tmp_path).exists()  # something is on its way
        backend.gate.set()
        await run.answered()
        await run.store.settle()
        assert not marker(tmp_path).exists()
        await run.miss(2)
        assert marker(tmp_path).exists()


async def test_a_failed_open_leaves_nothing_open(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend) as run:
        await run.answered()  # its digests are loaded
        before = sum(1 for _ in Path("/proc/self/fd").iterdir())
        other = make_blob(make_chunks(SIZES), blob_id="cd" * 32)
        backend.blobs["cd" * 32] = other.content[:-5] + b"12345"
        for _ in range(3):
            with pytest.raises(ImageCorrupt):
                await run.store.open_blob(BLOB_RECORD.parse(other.entry))
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
        backend.blobs["cd" * 32] = other.content
        await run.store.open_blob(BLOB_RECORD.parse(other.entry))
        assert run.statistics("open_blobs") == [2]


async def test_upcalls_wait_while_too_much_is_going_on(
    tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rafs.upcalls.MAX_BACKLOG", 2)
    async with running(tmp_path, backend) as run:
        await run.miss(0)
        backend.gate = asyncio.Event()
        await run.asked(1)
        await run.asked(2)
        run.upcalls.miss(run.blob.native, 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(run.blob.tasks) == 2
        backend.gate.set()
        while len(run.ready()) < 4:
            await asyncio.sleep(0)


def same_but_for_bytes() -> FakeBlob:
    """A blob with the id and the layout of FAKE, and other data."""
    return make_blob([bytes(byte ^ 1 for byte in chunk) for chunk in make_chunks(SIZES)], codec=NONE)


async def test_who_lied_about_a_blob_has_lied_to_nobody_else(tmp_path: Path) -> None:
    """Its cache was filled with what its image and its back-end said; the next one does not believe that."""
    truth, lie = make_blob(make_chunks(SIZES), codec=NONE), same_but_for_bytes()
    async with running(tmp_path, MemoryBackend({BLOB_ID: lie.content}), lie) as run:
        await run.miss(0, COUNT)
        assert run.ready() == set(range(COUNT))
    async with running(tmp_path, MemoryBackend({BLOB_ID: truth.content}), truth) as run:
        assert run.ready() == set()
        await run.miss(0, COUNT)
        assert run.statistics("salvaged_chunks", "fetched_chunks") == [0, COUNT]
        offset = run.blob.meta.chunk(1).uncompressed_offset
        assert data_of(tmp_path)[offset : offset + SIZES[1]] == make_chunks(SIZES)[1]
        with pytest.raises(ImageCorrupt, match="toc_digest"):
            await run.store.open_blob(BLOB_RECORD.parse(lie.entry))
    async with running(tmp_path, MemoryBackend({BLOB_ID: truth.content}), truth) as run:
        assert run.ready() == set(range(COUNT))  # by its own word


async def test_bits_that_nobody_vouches_for_are_verified_and_not_fetched(tmp_path: Path) -> None:
    """As nydusd leaves them."""
    truth = make_blob(make_chunks(SIZES))
    backend = MemoryBackend({BLOB_ID: truth.content})
    async with running(tmp_path, backend, truth) as run:
        await run.miss(0, COUNT)
    (tmp_path / f"{BLOB_ID}.blob.toc").unlink()
    async with running(tmp_path, backend, truth) as run:
        await run.miss(0, COUNT)
        assert run.statistics("salvaged_chunks", "fetched_chunks") == [COUNT, 0]
