"""Chunks that another blob of the directory holds: taken from there, verified, and never a reason to fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from native.digest_index import DigestIndex
from rafs.fill_guard import FillGuard
from rafs.governor import Governor
from rafs.inventory import remove_blob
from rafs.limits import CacheLimits
from rafs.open_blob import OpenBlob
from tests.fakes.blob_store import Running, running
from tests.fakes.blobs import BLOB_ID, NONE, ZSTD, FakeBlob, MemoryBackend, make_blob, make_chunks
from tests.native.host_mounts import clean_mounts

SIZES = [5000, 70_000, 4096, 300, 128_000, 9000]
COMMON = make_chunks(SIZES, seed=5)
OWN = make_chunks([6000, 40_000, 4096], seed=6)
OTHER_ID = "cd" * 32
ONE = make_blob(COMMON + make_chunks([1234], seed=7), codec=ZSTD)
#: the same chunks in another order among others, stored in another way
OTHER = make_blob([OWN[0], *reversed(COMMON), *OWN[1:]], codec=NONE, blob_id=OTHER_ID)
SHARED = range(1, 1 + len(COMMON))
COUNT = len(OTHER.chunks)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: ONE.content, OTHER_ID: OTHER.content})


async def open_other(run: Running, fake: FakeBlob = OTHER) -> OpenBlob:
    return await run.store.open_blob(BLOB_RECORD.parse(fake.entry))


def other_data(directory: Path) -> bytes:
    return (directory / f"{OTHER_ID}.blob.data").read_bytes()


async def test_what_an_open_blob_has_is_not_fetched(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend, ONE) as run:
        await run.store.fill(run.blob)
        fetched = run.statistics("fetched_chunks")[0]
        other = await open_other(run)
        await run.store.fill(other)
        assert other_data(tmp_path) == OTHER.image()
        assert run.statistics("fetched_chunks")[0] - fetched == len(OWN)
        saved = sum(len(chunk) for chunk in COMMON)
        assert run.statistics("deduplicated_chunks", "deduplicated_bytes") == [len(COMMON), saved]
        assert run.statistics("saved_bytes") == [saved]  # which the other blob stores plain
        await run.store.close_blob(other)


async def test_what_a_closed_blob_has_is_found_later(tmp_path: Path, backend: MemoryBackend) -> None:
    """The index is made again of what lies in the directory."""
    async with running(tmp_path, backend, ONE) as run:
        for index in (0, 1, 4):
            await run.miss(index)
    async with running(tmp_path, backend, OTHER) as run:
        await run.store.fill(run.blob)
        assert run.statistics("deduplicated_chunks", "fetched_chunks") == [3, COUNT - 3]
        assert other_data(tmp_path) == OTHER.image()
    async with running(tmp_path, backend, OTHER) as run:
        assert run.ready() == set(range(COUNT))


async def test_a_donor_that_lost_it_costs_a_fetch(tmp_path: Path, backend: MemoryBackend) -> None:
    """Evicted, corrupt or removed: the index does not know, and need not."""
    limits = CacheLimits(quota=1 << 30)
    async with running(tmp_path, backend, ONE, cache_limits=limits) as run:
        await run.store.fill(run.blob)
        other = await open_other(run)
        await run.store.fill(other, 0, 1)  # the index is made now
        run.blob.space.evict_from_disk([0, 1])
        with (tmp_path / f"{BLOB_ID}.blob.data").open("r+b") as file:
            file.seek(ONE.offsets[4])
            file.write(b"other bytes")
        await run.store.fill(other)
        assert other_data(tmp_path) == OTHER.image()
        assert run.statistics("deduplicated_chunks", "failed_chunks") == [3, 0]
        await run.store.close_blob(other)
    remove_blob(tmp_path, OTHER_ID)
    async with running(tmp_path, backend, ONE, cache_limits=limits) as run:
        other = await open_other(run)
        await run.store.fill(other, 0, 1)
        await run.store.close_blob(run.blob)
        assert remove_blob(tmp_path, BLOB_ID)
        await run.store.fill(other)
        assert other_data(tmp_path) == OTHER.image()
        assert run.statistics("deduplicated_chunks") == [0]


async def test_it_can_be_switched_off(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend, ONE, cache_limits=CacheLimits(dedup=False)) as run:
        await run.store.fill(run.blob)
        await run.store.fill(await open_other(run))
        assert run.statistics("deduplicated_chunks", "fetched_chunks") == [0, COUNT + len(ONE.chunks)]


async def test_without_digests_nothing_is_taken(tmp_path: Path, backend: MemoryBackend) -> None:
    plain = make_blob(COMMON, toc=False, blob_id=OTHER_ID)
    backend.blobs[OTHER_ID] = plain.content
    async with running(tmp_path, backend, ONE) as run:
        await run.store.fill(run.blob)
        await run.store.fill(await open_other(run, plain))
        assert run.statistics("deduplicated_chunks") == [0]


async def test_in_a_small_cache_the_donor_gives_up_nothing_that_is_being_copied(
    tmp_path: Path, backend: MemoryBackend
) -> None:
    """Both blobs change places in a cache that holds half of one: bytes are right all the time."""
    async with running(tmp_path, backend, ONE, cache_limits=CacheLimits(quota=200_000)) as run:
        other = await open_other(run)

        async def fill_all(blob: OpenBlob, fake: FakeBlob) -> None:
            for _ in range(15):
                for index in range(len(fake.chunks)):
                    await run.store.fill(blob, index, 1)
                    data = os.pread(blob.cache.data_fd, len(fake.chunks[index]), fake.offsets[index])
                    assert not blob.native.is_on_disk(index) or data == fake.chunks[index]

        await asyncio.gather(fill_all(run.blob, ONE), fill_all(other, OTHER))
        assert run.statistics("failed_chunks") == [0]
        assert run.statistics("deduplicated_chunks")[0] > 0 and run.statistics("evicted_chunks")[0] > 0


async def test_blocks_are_shared_where_the_file_system_can(tmp_path: Path, backend: MemoryBackend) -> None:
    device, point = tmp_path / "device", tmp_path / "fs"
    point.mkdir()
    with device.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", device], check=True)
    with clean_mounts(tmp_path):
        subprocess.run(["mount", "-o", "loop", device, point], check=True)
        async with running(point / "cache", backend, ONE) as run:
            await run.store.fill(run.blob)
            other = await open_other(run)
            await run.store.fill(other)
            assert run.statistics("deduplicated_chunks") == [len(COMMON)]
            assert run.statistics("cloned_bytes") == [sum(map(len, COMMON))]
            assert other_data(point / "cache") == OTHER.image()
            answer = subprocess.run(
                ["filefrag", "-v", other.cache.data_path], check=True, capture_output=True, text=True
            )
            assert "shared" in answer.stdout
            # what one gives up, the other one keeps
            run.blob.space.evict_from_disk(range(len(ONE.chunks)))
            assert other_data(point / "cache") == OTHER.image()
            await run.store.close_blob(other)


def test_guards_are_of_blobs_not_of_their_users(tmp_path: Path) -> None:
    """A donor that is opened by somebody meanwhile is guarded all the same."""
    governor = Governor(tmp_path)
    guard = governor.guard_of(BLOB_ID)
    assert isinstance(guard, FillGuard) and governor.guard_of(BLOB_ID) is guard
    assert governor.guard_of(OTHER_ID) is not guard
    governor.end()


def test_what_the_index_refuses() -> None:
    index = DigestIndex(100)
    with pytest.raises(ValueError, match="31 bytes"):
        index.add(bytes(31), 0, 0)
    with pytest.raises(ValueError, match="for 3 chunks"):
        index.add_all(0, bytes(95), b"\xff", 3)
    with pytest.raises(ValueError, match="for 9 chunks"):
        index.add_all(0, bytes(32 * 9), b"\xff", 9)
    index.add_all(7, bytes(32 * 2), b"\x40", 2)
    assert index.find(bytes(32)) == [(7, 1)]
    index.close()
    with pytest.raises(ValueError, match="closed"):
        index.find(bytes(32))
