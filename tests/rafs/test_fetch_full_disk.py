"""Fetching to a full disk: chunks are served from memory, and what that has no room for fails alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rafs.cache import CachedBlob
from rafs.errors import CacheFull
from rafs.limits import CacheLimits
from tests.fakes.blob_store import FAKE, SIZES, running
from tests.fakes.blobs import BLOB_ID, MemoryBackend


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: FAKE.content})


@contextmanager
def full_disk(cache: CachedBlob) -> Iterator[None]:
    """Nothing can be written to the data file."""
    full, good = os.open("/dev/full", os.O_RDWR), os.dup(cache.data_fd)
    os.dup2(full, cache.data_fd)
    try:
        yield
    finally:
        os.dup2(good, cache.data_fd)
        os.close(full)
        os.close(good)


async def test_a_full_disk_fails_nothing_while_there_is_memory(
    tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, backend) as run:
        await run.miss(0)
        with full_disk(run.blob.cache):
            await run.miss(1, 2)
            assert run.ready() == {0, 1, 2}
            assert [run.blob.native.is_on_disk(index) for index in range(3)] == [True, False, False]
            memory = os.pread(run.blob.space.memory.data_fd, SIZES[2], FAKE.offsets[2])
            assert memory == FAKE.chunks[2]
            assert run.statistics("failed_chunks", "spilled_chunks", "spilled_bytes") == [0, 2, 4096 + 5000]
            assert "No space left on device" in caplog.text
        await run.miss(1, 3)
        assert run.ready() == {0, 1, 2, 3} and run.blob.native.is_on_disk(3)


async def test_a_full_disk_and_no_memory_fail_the_chunk_only(
    tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, backend, cache_limits=CacheLimits(memory=4096)) as run:
        await run.miss(0)
        with full_disk(run.blob.cache):
            await run.miss(2)
            assert run.ready() == {0}
            assert "No space left on device" in caplog.text
            with pytest.raises(CacheFull):
                await run.store.fill(run.blob, 3, 1)
        await run.miss(1, 3)
        assert run.ready() == {0, 1, 2, 3}
