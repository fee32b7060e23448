"""The reader of the upcall ring: several stores behind one, what is too much, and what nobody serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from rafs import upcalls as upcalls_module
from rafs.blob_store import BlobStore
from rafs.fetch import FetchLimits, FetchResources
from rafs.open_blob import OpenBlob
from rafs.upcalls import Upcalls
from tests.fakes.blob_store import joined
from tests.fakes.blobs import BLOB_ID, MemoryBackend, make_blob, make_chunks
from tests.fakes.upcalls import ScriptedUpcalls

FAKE = make_blob(make_chunks([5000] * 8))


@asynccontextmanager
async def ring() -> AsyncIterator[tuple[ScriptedUpcalls, Upcalls]]:
    chunks = ScriptedUpcalls()
    upcalls = Upcalls(chunks)
    upcalls.start()
    try:
        yield chunks, upcalls
    finally:
        upcalls.stop()
        chunks.close()


async def ready(blob: OpenBlob, count: int) -> None:
    async with asyncio.timeout(10):
        while blob.native.ready_count() < count:
            await asyncio.sleep(0.001)


async def test_stores_share_the_ring_and_what_fetching_may_use(tmp_path: Path) -> None:
    """Each has its own back-end and cache directory, also for a blob that both know."""
    resources = FetchResources(FetchLimits(max_requests=1), threads=2)
    async with ring() as (chunks, upcalls):
        backends = [MemoryBackend({BLOB_ID: FAKE.content}) for _ in range(2)]
        stores = [
            BlobStore(joined(tmp_path / str(number)), backend, upcalls, resources)
            for number, backend in enumerate(backends)
        ]
        blobs = [await store.open_blob(BLOB_RECORD.parse(FAKE.entry)) for store in stores]
        before = [len(backend.reads) for backend in backends]
        chunks.miss(blobs[0].native, 0, 3)
        chunks.miss(blobs[1].native, 5, 3)
        await asyncio.gather(*(ready(blob, 3) for blob in blobs))
        assert all(len(backend.reads) > count for backend, count in zip(backends, before, strict=True))
        assert [blob.native.is_ready(0) for blob in blobs] == [True, False]
        assert [store.statistics()["fetched_chunks"] for store in stores] == [3, 3]
        await stores[0].close()  # the other one serves on
        chunks.miss(blobs[1].native, 0, 1)
        await ready(blobs[1], 4)
        await stores[1].close()
    resources.close()


async def test_what_nobody_serves_is_let_go() -> None:
    async with ring() as (chunks, upcalls):
        served: list[list[tuple[int, int]]] = []

        def serve(runs: list[tuple[int, int]]) -> asyncio.Task[None]:
            served.append(runs)
            return asyncio.create_task(asyncio.sleep(0))

        upcalls.add(7, serve)
        chunks.ask_handle(8, [(0, 1)])
        chunks.ask_handle(7, [(0, 1), (5, 2)])
        async with asyncio.timeout(5):
            while not served:
                await asyncio.sleep(0)
        assert served == [[(0, 1), (5, 2)]]
        upcalls.remove(7)
        with pytest.raises(KeyError):
            upcalls.remove(7)


async def test_too_much_waits_in_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upcalls_module, "MAX_BACKLOG", 2)
    async with ring() as (chunks, upcalls):
        gate = asyncio.Event()
        begun = 0

        async def work() -> None:
            await gate.wait()

        def serve(runs: list[tuple[int, int]]) -> asyncio.Task[None]:
            nonlocal begun
            begun += 1
            return asyncio.create_task(work())

        for handle in range(5):
            upcalls.add(handle, serve)
            chunks.ask_handle(handle, [(0, 1)])
            for _ in range(5):
                await asyncio.sleep(0)
        assert begun == 2
        gate.set()
        async with asyncio.timeout(5):
            while begun < 5:
                await asyncio.sleep(0)
