"""BlobStore: opening, serving misses to READY, sharing, ending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from rafs.backend import LocalBackend
from rafs.blob_store import BlobStore
from rafs.fetch import FetchLimits, OpenBlob
from tests.fakes.blobs import (
    BLAKE3,
    BLOB_ID,
    GZIP,
    LZ4,
    NONE,
    SHA256,
    ZSTD,
    MemoryBackend,
    make_blob,
    make_chunks,
)
from tests.fakes.upcalls import ScriptedUpcalls

SIZES = [1, 4096, 5000, 100_000, 16, 12_288, 300_000, 1 << 20]


@asynccontextmanager
async def running(
    cache_dir: Path, backend: MemoryBackend | LocalBackend, limits: FetchLimits | None = None
) -> AsyncIterator[tuple[BlobStore, ScriptedUpcalls]]:
    upcalls = ScriptedUpcalls()
    store = BlobStore(cache_dir, backend, upcalls, limits=limits, threads=2, boot_id="this-boot")
    store.start()
    try:
        yield store, upcalls
    finally:
        await store.close()
        upcalls.close()


async def served(blob: OpenBlob) -> None:
    """Wait until everything that was asked for is answered."""
    await asyncio.sleep(0)  # the reader callback
    while blob.tasks:
        await asyncio.wait(blob.tasks)


async def miss(upcalls: ScriptedUpcalls, blob: OpenBlob, first: int, count: int = 1) -> None:
    upcalls.miss(blob.native, first, count)
    while not blob.tasks:
        await asyncio.sleep(0)
    await served(blob)


def data_file(cache_dir: Path) -> bytes:
    return (cache_dir / f"{BLOB_ID}.blob.data").read_bytes()


@pytest.mark.parametrize("codec", [NONE, LZ4, GZIP, ZSTD])
@pytest.mark.parametrize("digester", [BLAKE3, SHA256])
@pytest.mark.parametrize("v2", [False, True])
async def test_all_chunks_arrive(tmp_path: Path, codec: int, digester: int, v2: bool) -> None:
    fake = make_blob(make_chunks(SIZES), codec=codec, digester=digester, v2=v2)
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend) as (store, upcalls):
        blob = await store.open_blob(BLOB_RECORD.parse(fake.entry))
        await miss(upcalls, blob, 0, len(SIZES))
        assert blob.native.ready_count() == len(SIZES)
        assert data_file(tmp_path) == fake.image()
        statistics = store.statistics()
    assert statistics["verified_chunks"] == statistics["fetched_chunks"] == len(SIZES)
    assert (
        statistics["unverified_chunks"] == statistics["failed_chunks"] == statistics["bytes_in_flight"] == 0
    )
    assert (tmp_path / f"{BLOB_ID}.blob.meta").read_bytes() == fake.meta_file
    assert (tmp_path / f"{BLOB_ID}.blob.digest").read_bytes() == b"".join(fake.digests)
