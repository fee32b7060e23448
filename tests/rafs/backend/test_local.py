"""The local directory back-end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rafs.backend import LocalBackend, read_exactly
from rafs.errors import BlobCorrupt, BlobNotFound, BlobUnavailable, ImageCorrupt
from tests.fakes.blobs import BLOB_ID

CONTENT = bytes(range(256)) * 100


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@asynccontextmanager
async def local(directory: Path) -> AsyncIterator[LocalBackend]:
    backend = LocalBackend(directory, threads=2)
    try:
        yield backend
    finally:
        await backend.close()


async def test_ranges_of_a_file(tmp_path: Path) -> None:
    (tmp_path / BLOB_ID).write_bytes(CONTENT)
    async with local(tmp_path) as backend:
        assert await backend.blob_size(BLOB_ID) == len(CONTENT)
        reads = [(0, 10), (5, 1000), (len(CONTENT) - 1, 1), (0, len(CONTENT))]
        answers = await asyncio.gather(*(backend.read_range(BLOB_ID, *read) for read in reads))
        assert answers == [CONTENT[offset : offset + length] for offset, length in reads]
        (tmp_path / BLOB_ID).unlink()  # garbage collection while we run
        assert await backend.read_range(BLOB_ID, 3, 4) == CONTENT[3:7]


async def test_errors_name_blob_and_place(tmp_path: Path) -> None:
    other = "cd" * 32
    (tmp_path / other).mkdir()
    os.mkfifo(tmp_path / ("ef" * 32))
    async with local(tmp_path) as backend:
        with pytest.raises(BlobNotFound, match=f"{BLOB_ID}: no such file in {tmp_path}"):
            await backend.read_range(BLOB_ID, 0, 1)
        for blob_id in (other, "ef" * 32):
            with pytest.raises(BlobUnavailable, match=f"{blob_id}: cannot read 7 bytes at offset 5 from"):
                await backend.read_range(blob_id, 5, 7)
        with pytest.raises(ImageCorrupt):
            await backend.read_range("../" + BLOB_ID, 0, 1)


async def test_the_first_directory_that_has_a_blob_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    (second / BLOB_ID).write_bytes(b"second")
    backend = LocalBackend(first, second)
    assert await backend.read_range(BLOB_ID, 0, 6) == b"second"
    with pytest.raises(BlobNotFound, match=f"no such file in {first} or {second}"):
        await backend.read_range("cd" * 32, 0, 1)
    await backend.close()
    first.mkdir()
    (first / BLOB_ID).write_bytes(b"first")
    backend = LocalBackend(first, second)
    assert await backend.read_range(BLOB_ID, 0, 5) == b"first"
    await backend.close()


async def test_one_file_stands_for_every_blob(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(CONTENT)
    backend = LocalBackend(blob_file=tmp_path / "blob")
    assert (
        await backend.read_range(BLOB_ID, 3, 4) == await backend.read_range("cd" * 32, 3, 4) == CONTENT[3:7]
    )
    await backend.close()
    backend = LocalBackend(blob_file=tmp_path / "none")
    with pytest.raises(BlobNotFound, match="none"):
        await backend.blob_size(BLOB_ID)
    await backend.close()


async def test_open_files_are_bounded(tmp_path: Path) -> None:
    ids = [f"{number:064x}" for number in range(LocalBackend.MAX_OPEN + 20)]
    for blob_id in ids:
        (tmp_path / blob_id).write_text(blob_id)
    before = open_descriptors()
    async with local(tmp_path) as backend:
        for _ in range(2):
            for blob_id in ids:
                assert await backend.read_range(blob_id, 0, 64) == blob_id.encode()
        assert open_descriptors() <= before + LocalBackend.MAX_OPEN + 4
    assert open_descriptors() <= before + 4


async def test_a_read_past_the_end_is_short(tmp_path: Path) -> None:
    (tmp_path / BLOB_ID).write_bytes(CONTENT)
    async with local(tmp_path) as backend:
        with pytest.raises(BlobCorrupt, match="returned 1 of the 2 bytes"):
            await read_exactly(backend, BLOB_ID, len(CONTENT) - 1, 2)
