"""A running blob store with one open blob, scripted misses and a scripted back-end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from native.dataplane import BLOB_RECORD
from rafs.backend import BlobBackend
from rafs.blob_store import BlobStore
from rafs.cache_dir import CacheDir
from rafs.chunk_state import MergeLimits
from rafs.fetch import FetchLimits, FetchResources
from rafs.governor import Governor
from rafs.limits import NO_LIMITS, CacheLimits
from rafs.open_blob import OpenBlob
from rafs.upcalls import Upcalls
from tests.fakes.blobs import BLOB_ID, FakeBlob, make_blob, make_chunks
from tests.fakes.upcalls import ScriptedUpcalls

SIZES = [1, 4096, 5000, 100_000, 16, 12_288, 300_000, 1 << 20]
COUNT = len(SIZES)
FAKE = make_blob(make_chunks(SIZES))
ONE_BY_ONE = FetchLimits(merge=MergeLimits(max_request=1))


class Running:
    """A store with one open blob."""

    def __init__(
        self, store: BlobStore, upcalls: ScriptedUpcalls, blob: OpenBlob, governor: Governor
    ) -> None:
        self.governor = governor
        self.store = store
        self.upcalls = upcalls
        self.blob = blob

    def ready(self) -> set[int]:
        return {index for index in range(self.blob.native.chunk_count) if self.blob.native.is_ready(index)}

    async def asked(self, first: int, count: int = 1) -> None:
        """A read misses; return when the fetcher has heard of it."""
        before = set(self.blob.tasks)
        if self.upcalls.miss(self.blob.native, first, count):
            while self.blob.tasks <= before:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def answered(self) -> None:
        while self.blob.tasks:
            await asyncio.wait(self.blob.tasks)

    async def miss(self, first: int, count: int = 1) -> None:
        await self.asked(first, count)
        await self.answered()

    def statistics(self, *names: str) -> list[int]:
        statistics = self.store.statistics() | self.governor.statistics()
        return [statistics[name] for name in names]


@asynccontextmanager
async def running(
    directory: Path,
    backend: BlobBackend,
    fake: FakeBlob = FAKE,
    limits: FetchLimits | None = None,
    boot_id: str = "boot-1",
    digests: Any = None,
    entry: Any = None,
    cache_limits: CacheLimits = NO_LIMITS,
    cache_dir: CacheDir | None = None,
) -> AsyncIterator[Running]:
    """`cache_dir` is joined, and stays the caller's."""
    upcalls = ScriptedUpcalls()
    ring, resources = Upcalls(upcalls), FetchResources(limits, threads=2)
    ring.start()
    directory_of_ours = cache_dir or CacheDir(directory, boot_id=boot_id)
    if cache_dir is None:
        directory_of_ours.join(cache_limits)
    store = BlobStore(directory_of_ours, backend, ring, resources)
    store.start()
    try:
        blob = await store.open_blob(entry or BLOB_RECORD.parse(fake.entry), digests=digests)
        yield Running(store, upcalls, blob, directory_of_ours.governor)
    finally:
        ring.stop()
        await store.close()
        if cache_dir is None:
            directory_of_ours.leave()
        resources.close()
        upcalls.close()


def joined(path: Path) -> CacheDir:
    """A cache directory without limits, as one of several processes that use it."""
    cache_dir = CacheDir(path)
    cache_dir.join()
    return cache_dir


def data_of(directory: Path) -> bytes:
    return (directory / f"{BLOB_ID}.blob.data").read_bytes()


def marker(directory: Path) -> Path:
    return directory / f"{BLOB_ID}.blob.data.unsynced"
