"""What is asked of every back-end: the one of a configuration, and a look whether it reads as it should."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from rafs.backend import BlobBackend
from rafs.backend.config import Backend, decode_secret
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from rafs.errors import BlobCorrupt, BlobNotFound

BLOB_ID = "ab" * 32
CONTENT = random.Random(3).randbytes(1_000_000)


@asynccontextmanager
async def backend_of(kind: str, section: dict[str, Any]) -> AsyncIterator[BlobBackend]:
    """The back-end of a configuration, as JSON has it."""
    async with backend_and_pool_of(kind, section) as (backend, _):
        yield backend


@asynccontextmanager
async def backend_and_pool_of(
    kind: str, section: dict[str, Any]
) -> AsyncIterator[tuple[BlobBackend, HttpPool]]:
    config = msgspec.convert({"type": kind, kind: section}, Backend, dec_hook=decode_secret)
    pool = HttpPool()
    backend = make_backend(config, pool)
    try:
        yield backend, pool
    finally:
        await backend.close()
        await pool.close()


async def check_reads(backend: BlobBackend) -> None:
    """It has CONTENT as BLOB_ID, and nothing else."""
    assert await backend.blob_size(BLOB_ID) == len(CONTENT)
    reads = [(0, 10), (5, 1000), (len(CONTENT) - 1, 1), (0, len(CONTENT)), (7, 0)]
    answers = await asyncio.gather(*(backend.read_range(BLOB_ID, *read) for read in reads))
    assert answers == [CONTENT[offset : offset + length] for offset, length in reads]
    assert await backend.read_range(BLOB_ID, 3, 4, again=True) == CONTENT[3:7]
    for read in (backend.blob_size("cd" * 32), backend.read_range("cd" * 32, 0, 1)):
        with pytest.raises(BlobNotFound, match=f"^blob {'cd' * 32}: "):
            await read
    for offset in (len(CONTENT) - 5, len(CONTENT) + 5):
        with pytest.raises(BlobCorrupt, match=f"^blob {BLOB_ID}: 10 bytes at offset {offset}"):
            await backend.read_range(BLOB_ID, offset, 10)
