"""The chunks of a v5 blob: gathered from images, and never believed twice."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from rafs.blob_record import BlobRecord, Feature
from rafs.chunk_table import BootstrapChunks
from rafs.codes import Compressor, Digester
from rafs.errors import ImageCorrupt, RafsError
from tests.fakes.blob_store import running
from tests.fakes.blobs import BLAKE3, BLOB_ID, LZ4, MemoryBackend, compress, digest, make_chunks

#: 32-byte digest, blob, flags, stored and plain size and offset, offset in the file, index, CRC (spec 4.6)
RECORD = struct.Struct("<32sIIIIQQQII")
SIZES = [1, 4096, 5000, 100_000, 16, 12_288, 300_000]
PLAIN = make_chunks(SIZES)


def pack(chunk: int, **changes: int) -> bytes:
    """A record in the one form that lists have."""
    stored = [compress(LZ4, plain) for plain in PLAIN]
    fields = {
        "flags": int(len(stored[chunk]) != len(PLAIN[chunk])),
        "stored_size": len(stored[chunk]),
        "size": len(PLAIN[chunk]),
        "stored_offset": sum(map(len, stored[:chunk])),
        "offset": sum(map(len, PLAIN[:chunk])),
    } | changes
    return RECORD.pack(
        digest(BLAKE3, PLAIN[chunk]),
        0,
        fields["flags"],
        fields["stored_size"],
        fields["size"],
        fields["stored_offset"],
        fields["offset"],
        0,
        chunk,
        0,
    )


def listed(*chunks: int) -> BootstrapChunks:
    return BootstrapChunks(b"".join(map(pack, chunks)))


CONTENT = b"".join(compress(LZ4, plain) for plain in PLAIN)
V5 = BlobRecord(
    BLOB_ID,
    0,
    1 << 20,
    len(SIZES),
    Compressor.LZ4_BLOCK,
    Digester.BLAKE3,
    Feature(0),
    len(CONTENT),
    sum(SIZES),
    0,
    None,
    Compressor.NONE,
    0,
    0,
    0,
    fs_version=5,
)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: CONTENT})


def holds(directory: Path, chunk: int) -> bool:
    at = sum(SIZES[:chunk])
    data = (directory / f"{BLOB_ID}.blob.data").read_bytes()
    return data[at : at + SIZES[chunk]] == PLAIN[chunk]


async def test_images_add_what_they_know(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend, entry=V5, digests=listed(1, 3)) as run:
        await run.store.fill(run.blob)
        assert run.ready() == {1, 3}
        with pytest.raises(ImageCorrupt, match="chunk 2 is described by no image"):
            run.blob.meta.chunk(2)
        again = await run.store.open_blob(V5, digests=listed(0, 1, 2, 6))
        assert again is run.blob
        await run.store.fill(run.blob)
        assert run.ready() == {0, 1, 2, 3, 6}
        assert all(holds(tmp_path, chunk) for chunk in run.ready())
        assert run.statistics("fetched_chunks", "verified_chunks") == [5, 5]
    async with running(tmp_path, backend, entry=V5, digests=listed(5)) as run:  # the table is still there
        assert run.ready() == {0, 1, 2, 3, 6}
        assert run.blob.meta.chunk(6).uncompressed_size == SIZES[6]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offset": sum(SIZES[:3]) + 1}, "chunk 3 is another one in an image that was used before"),
        ({"stored_offset": 7}, "chunk 3 is another one"),
        ({"size": 99_999}, "chunk 3 is another one"),
    ],
)
async def test_another_image_may_not_contradict(
    tmp_path: Path, backend: MemoryBackend, changes: dict[str, int], said: str
) -> None:
    lie = BootstrapChunks(pack(2) + pack(3, **changes))
    async with running(tmp_path, backend, entry=V5, digests=listed(3)) as run:
        with pytest.raises(ImageCorrupt, match=re.escape(f"{BLOB_ID}: {said}")):
            await run.store.open_blob(V5, digests=lie)
        with pytest.raises(ImageCorrupt):
            run.blob.meta.chunk(2)  # nothing of it stays
        await run.miss(3)
        assert run.ready() == {3} and holds(tmp_path, 3)
    with pytest.raises(ImageCorrupt, match=re.escape(said)):  # nor after a restart
        async with running(tmp_path, backend, entry=V5, digests=lie):
            pass


async def test_no_chunk_lies_over_another_one(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend, entry=V5, digests=listed(3)) as run:
        with pytest.raises(ImageCorrupt, match="chunk 3 overlaps one of an image"):
            await run.store.open_blob(V5, digests=BootstrapChunks(pack(2, offset=sum(SIZES[:3]) - 4999)))


@pytest.mark.parametrize(
    "records",
    [
        pack(3, size=0),
        pack(3, size=(1 << 20) + 1),
        pack(3, stored_size=0),
        pack(3, flags=0),
        pack(3, flags=5),
        pack(3, stored_offset=len(CONTENT)),
        pack(3, stored_offset=(1 << 64) - 1),
        pack(3, offset=sum(SIZES) - 99_999),
        pack(3, offset=(1 << 64) - 1),
        pack(3)[:-8] + struct.pack("<II", 7, 0),
        pack(3) + pack(2),
        pack(3) + pack(3),
        pack(1) + pack(2, offset=4096),
    ],
)
async def test_records_that_cannot_be(tmp_path: Path, backend: MemoryBackend, records: bytes) -> None:
    with pytest.raises(ImageCorrupt, match=r"is out of bounds, out of order, or overlaps"):
        async with running(tmp_path, backend, entry=V5, digests=BootstrapChunks(records)):
            pass
    assert backend.reads == []


async def fill_as_nydusd(directory: Path, backend: MemoryBackend, *, all_ready: bool) -> None:
    """A cache that knows no table: chunk 3 is right, chunk 2 is not, though it is READY."""
    async with running(directory, backend, entry=V5, digests=listed(2, 3)) as run:
        await run.miss(2, 2)
    (directory / f"{BLOB_ID}.blob.chunks").unlink()
    with (directory / f"{BLOB_ID}.blob.data").open("r+b") as data:
        data.seek(sum(SIZES[:2]))
        data.write(b"other")
    if all_ready:
        with (directory / f"{BLOB_ID}.blob.data.chunk_map").open("r+b") as chunk_map:
            chunk_map.seek(12)
            chunk_map.write(struct.pack("<I", 0x4D4D4150))


@pytest.mark.parametrize("all_ready", [False, True])
async def test_bits_of_others_are_verified_first(
    tmp_path: Path, backend: MemoryBackend, all_ready: bool
) -> None:
    await fill_as_nydusd(tmp_path, backend, all_ready=all_ready)
    async with running(tmp_path, backend, entry=V5, digests=listed(2, 3)) as run:
        assert not run.ready() & {2, 3}
        await run.miss(2, 2)
        assert run.statistics("salvaged_chunks", "fetched_chunks") == [1, 1]
        assert holds(tmp_path, 2) and holds(tmp_path, 3)


async def refused(directory: Path, backend: MemoryBackend, record: BlobRecord) -> str:
    with pytest.raises(RafsError) as caught:
        async with running(directory, backend, entry=record, digests=listed(1) if record is V5 else None):
            pass
    return str(caught.value)


async def test_a_cache_serves_images_of_one_version(tmp_path: Path, backend: MemoryBackend) -> None:
    v6 = replace(V5, fs_version=6)
    async with running(tmp_path, backend, entry=V5, digests=listed(1)) as run:
        with pytest.raises(ImageCorrupt, match="fs_version is 6, a mounted image says 5"):
            await run.store.open_blob(v6)
    assert "is the cache of a RAFS v5 image" in await refused(tmp_path, backend, v6)
    (tmp_path / f"{BLOB_ID}.blob.chunks").rename(tmp_path / f"{BLOB_ID}.blob.meta")
    assert "is the cache of a RAFS v6 image" in await refused(tmp_path, backend, V5)


async def test_a_table_that_somebody_spoilt(tmp_path: Path, backend: MemoryBackend) -> None:
    path = tmp_path / f"{BLOB_ID}.blob.chunks"
    async with running(tmp_path, backend, entry=V5, digests=listed(1)):
        good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert "is not the table of this blob; remove it" in await refused(tmp_path, backend, V5)
    path.write_bytes(good[:80] + pack(2) + good[160:])
    assert "chunk 1 is out of bounds" in await refused(tmp_path, backend, V5)
    path.write_bytes(bytes(len(good)))  # its creator died
    async with running(tmp_path, backend, entry=V5, digests=listed(1)) as run:
        await run.miss(1)
        assert run.ready() == {1}


async def test_a_blob_without_chunks(tmp_path: Path, backend: MemoryBackend) -> None:
    """Old builders left blobs in the table that no file uses any more."""
    empty = replace(V5, chunk_count=0, compressed_size=0, uncompressed_size=0)
    for _ in range(2):
        async with running(tmp_path, backend, entry=empty, digests=listed()) as run:
            await run.store.fill(run.blob)
            assert run.ready() == set() and len(run.blob.meta) == 0
