"""A back-end that counts: by size, by latency, and what failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from rafs.errors import BlobAuthError, BlobCorrupt, BlobNetworkError, BlobNotFound, BlobUnavailable
from rafs.metered import LATENCY_LIMITS, SIZE_LIMITS, MeteredBackend
from tests.fakes.blobs import BLOB_ID, MemoryBackend

CONTENT = bytes(2 << 20)


async def test_reads_by_size_and_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0001, 10.0, 10.03, 20.0, 23.0])
    monkeypatch.setattr("rafs.metered.time", SimpleNamespace(monotonic=lambda: next(clock)))
    metered = MeteredBackend(MemoryBackend({BLOB_ID: CONTENT}))
    for length in (1023, 1024, 1 << 20):
        assert len(await metered.read_range(BLOB_ID, 0, length)) == length
    seen = metered.statistics
    assert (seen.reads, seen.errors, seen.read_bytes) == (3, 0, 1023 + 1024 + (1 << 20))
    assert seen.reads_by_size == [1, 1, 0, 0, 0, 0, 0, 1]
    assert seen.seconds == pytest.approx(3.0301)
    assert seen.seconds_by_size == pytest.approx([0.0001, 0.03, 0, 0, 0, 0, 0, 3])
    rows = seen.reads_by_latency_and_size
    assert rows[0] == [1, 0, 0, 0, 0, 0, 0, 0]  # 200 us and less
    assert rows[3] == [0, 1, 0, 0, 0, 0, 0, 0]  # up to 50 ms
    assert rows[7] == [0, 0, 0, 0, 0, 0, 0, 1]  # over 2 s
    assert sum(map(sum, rows)) == 3
    assert len(SIZE_LIMITS) == len(LATENCY_LIMITS) == 7


def broken(offset: int, length: int, data: bytes) -> bytes:
    raise BlobUnavailable("broken on purpose")


async def test_failures_count_and_those_who_give_up_do_not() -> None:
    backend = MemoryBackend({BLOB_ID: CONTENT})
    metered = MeteredBackend(backend)
    backend.answer = broken
    with pytest.raises(BlobUnavailable):
        await metered.read_range(BLOB_ID, 0, 1)
    assert (metered.statistics.reads, metered.statistics.errors) == (1, 1)
    backend.gate = asyncio.Event()
    reading = asyncio.create_task(metered.read_range(BLOB_ID, 0, 1))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert metered.statistics.reads == 1
    assert await metered.blob_size(BLOB_ID) == len(CONTENT)
    await metered.close()


@dataclass
class FailingBackend(MemoryBackend):
    """Fails with what stands in `error`."""

    error: type[BlobUnavailable] = BlobUnavailable

    async def blob_size(self, blob_id: str) -> int:
        raise self.error(f"blob {blob_id}: broken on purpose")

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        raise self.error(f"blob {blob_id}: broken on purpose")


async def test_failures_are_told_apart() -> None:
    backend = FailingBackend({})
    metered = MeteredBackend(backend)
    for error in (BlobUnavailable, BlobAuthError, BlobNetworkError, BlobNotFound, BlobCorrupt):
        backend.error = error
        with pytest.raises(error):
            await metered.read_range(BLOB_ID, 0, 1)
        with pytest.raises(error):
            await metered.blob_size(BLOB_ID)
    kinds = ("other", "auth", "network", "missing", "corrupt")
    assert metered.statistics.errors_by_kind == dict.fromkeys(kinds, 2)
    assert (metered.statistics.reads, metered.statistics.errors) == (5, 5)
