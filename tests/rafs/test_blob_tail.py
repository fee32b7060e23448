"""Metadata of a blob: from the back-end once, from the cache after, checked along the chain of digests."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from rafs.blob_record import BlobRecord
from rafs.blob_tail import BlobTail, Digests
from rafs.cache_dir import CacheDir
from rafs.errors import BlobUnavailable, CacheError, ImageCorrupt
from tests.fakes.blobs import BLOB_ID, ZSTD, FakeBlob, MemoryBackend, make_blob, make_chunks

CHUNKS = make_chunks([5000, 100, 9000])
FAKE = make_blob(CHUNKS, ci_codec=ZSTD)
UNAVAILABLE = BlobUnavailable("the registry is down")


class Opened:
    """A blob's tail, read from `backend` and kept in `directory`."""

    def __init__(self, tail: BlobTail, backend: MemoryBackend) -> None:
        self.tail = tail
        self.backend = backend

    async def digests(self) -> list[bytes | None] | None:
        digest_of = await self.tail.load_digests()
        return None if digest_of is None else [digest_of(index) for index in range(len(CHUNKS))]


@asynccontextmanager
async def opened(
    directory: Path, fake: FakeBlob, digests: Digests | None = None, *, served: bytes | None = None
) -> AsyncIterator[Opened]:
    backend = MemoryBackend({BLOB_ID: fake.content if served is None else served})
    cache = CacheDir(directory, boot_id="boot").open(BlobRecord.parse(BLOB_RECORD.parse(fake.entry)))
    with ThreadPoolExecutor(1) as pool:
        tail = BlobTail(cache, backend, pool, digests)
        try:
            yield Opened(tail, backend)
        finally:
            tail.close()
            cache.close()


def down(*_: object) -> bytes:
    raise UNAVAILABLE


def cached(directory: Path, kind: str) -> Path:
    return directory / f"{BLOB_ID}.blob.{kind}"


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("toc", [False, True])
async def test_cold_then_warm(tmp_path: Path, v2: bool, toc: bool) -> None:
    fake = make_blob(CHUNKS, v2=v2, toc=toc)
    async with opened(tmp_path, fake) as blob:
        meta = await blob.tail.load_meta()
        assert [chunk.uncompressed_size for chunk in meta.chunks(0, 3)] == [5000, 100, 9000]
        assert await blob.digests() == (fake.digests if toc else None)
        assert len(blob.backend.reads) == (3 if toc else 1)
    assert cached(tmp_path, "meta").read_bytes() == fake.meta_file
    assert cached(tmp_path, "digest").exists() == cached(tmp_path, "toc").exists() == toc
    async with opened(tmp_path, fake) as blob:
        blob.backend.answer = down
        await blob.tail.load_meta()
        assert await blob.digests() == (fake.digests if toc else None)
        assert blob.backend.reads == []


async def test_what_nydusd_left_opens_offline_and_is_verified_by_the_first_fetch(tmp_path: Path) -> None:
    cached(tmp_path, "meta").write_bytes(FAKE.meta_file)
    async with opened(tmp_path, FAKE) as blob:
        blob.backend.answer = down
        assert len(await blob.tail.load_meta()) == 3
        for _ in range(2):
            with pytest.raises(BlobUnavailable):
                await blob.digests()
        blob.backend.answer = None
        assert await blob.digests() == FAKE.digests


async def test_a_cached_meta_that_is_not_the_blobs_is_found_out(tmp_path: Path) -> None:
    """It fits the blob table in each number, and has other records."""
    other = bytearray(FAKE.meta_file)
    other[0:8], other[16:24] = other[16:24], other[0:8]
    cached(tmp_path, "meta").write_bytes(other)
    async with opened(tmp_path, FAKE) as blob:
        await blob.tail.load_meta()  # nothing to compare with yet
        with pytest.raises(CacheError, match=r"blob\.meta is not the blob's: .*remove it"):
            await blob.digests()
    async with opened(tmp_path, FAKE) as blob:  # the TOC is cached now
        await blob.tail.load_meta()
        assert await blob.digests() == FAKE.digests
    assert cached(tmp_path, "meta").read_bytes() == FAKE.meta_file


@pytest.mark.parametrize("kind, at", [("meta", 3), ("meta", 5000), ("digest", 40), ("toc", 30)])
@pytest.mark.parametrize("damage", ["flip", "cut"])
async def test_damaged_cache_files_are_read_again(
    tmp_path: Path, kind: str, at: int, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, FAKE) as blob:
        await blob.tail.load_meta()
        await blob.tail.load_digests()
    good = cached(tmp_path, kind).read_bytes()
    bad = good[:at] + (bytes([good[at] ^ 1]) + good[at + 1 :] if damage == "flip" else b"")
    cached(tmp_path, kind).write_bytes(bad)
    async with opened(tmp_path, FAKE) as blob:
        await blob.tail.load_meta()
        assert await blob.digests() == FAKE.digests
    assert cached(tmp_path, kind).read_bytes() == good
    assert f"{BLOB_ID}.blob.{kind}" in caplog.text and "again" in caplog.text


SECTIONS = {
    "ci data": FAKE.content.index(make_blob(CHUNKS, ci_codec=ZSTD).meta_file[-4096:]) - 5,
    "ci header": FAKE.content.index(FAKE.meta_file[-4096:]) + 100,
    "digests": FAKE.content.index(FAKE.digests[1]),
    "toc": len(FAKE.content) - 600,
    "tar header": len(FAKE.content) - 500,
}


@pytest.mark.parametrize("section", SECTIONS)
async def test_a_flipped_bit_of_the_blob_is_found_and_not_cached(tmp_path: Path, section: str) -> None:
    bad = bytearray(FAKE.content)
    bad[SECTIONS[section]] ^= 1
    async with opened(tmp_path, FAKE, served=bytes(bad)) as blob:
        with pytest.raises(ImageCorrupt, match=BLOB_ID):
            await blob.tail.load_meta()
            await blob.tail.load_digests()
    async with opened(tmp_path, FAKE) as blob:
        await blob.tail.load_meta()
        assert await blob.digests() == FAKE.digests


async def test_structure_is_checked_where_there_is_no_toc(tmp_path: Path) -> None:
    fake = make_blob(CHUNKS, toc=False)
    bad = bytearray(fake.content)
    at = fake.content.index(fake.meta_file[:16]) + 16  # the second record
    bad[at : at + 8] = bad[at - 16 : at - 8]  # in the place of the first
    async with opened(tmp_path, fake, served=bytes(bad)) as blob:
        with pytest.raises(ImageCorrupt, match="chunk 0 reaches into chunk 1"):
            await blob.tail.load_meta()
    assert not cached(tmp_path, "meta").exists()


async def test_digests_of_the_bootstrap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake = make_blob(CHUNKS, toc=False)
    table = {0: fake.digests[0], 2: fake.digests[2]}
    for given in (table, table.get):
        async with opened(tmp_path, fake, given) as blob:
            await blob.tail.load_meta()
            assert await blob.digests() == [fake.digests[0], None, fake.digests[2]]
    async with opened(tmp_path, fake, {}) as blob:
        await blob.tail.load_meta()
        assert await blob.digests() is None
        await blob.tail.add_bootstrap(table)
        assert (await blob.digests() or [])[0] == fake.digests[0]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_which_source_of_digests_goes_first(tmp_path: Path) -> None:
    """The blob's own array if the blob table vouches for it; else the bootstrap, then the blob."""
    lies = {0: b"\x11" * 32}
    async with opened(tmp_path, FAKE, lies) as blob:
        await blob.tail.load_meta()
        assert await blob.digests() == FAKE.digests
    entry = FAKE.entry[:136] + bytes(32) + FAKE.entry[168:]
    unvouched = FakeBlob(**{**vars(FAKE), "entry": entry})
    async with opened(tmp_path, unvouched, lies) as blob:
        await blob.tail.load_meta()
        assert await blob.digests() == [lies[0], *FAKE.digests[1:]]


async def test_features_that_promise_what_is_not_there(tmp_path: Path) -> None:
    fake = make_blob(CHUNKS, digests=False)
    features = int.from_bytes(fake.entry[84:88], "little") | 0x20
    entry = fake.entry[:84] + features.to_bytes(4, "little") + fake.entry[88:]
    async with opened(tmp_path, FakeBlob(**{**vars(fake), "entry": entry})) as blob:
        await blob.tail.load_meta()
        with pytest.raises(ImageCorrupt, match=r"no 'blob\.digest'"):
            await blob.digests()


async def test_metadata_that_comes_wrong_is_asked_for_once_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, FAKE) as blob:
        backend = blob.backend

        def lie(offset: int, length: int, data: bytes) -> bytes:
            return data if (offset, length) in backend.again else bytes([data[0] ^ 1]) + data[1:]

        backend.answer = lie
        await blob.tail.load_meta()
        assert await blob.digests() == FAKE.digests
        assert len(backend.again) == 3  # the TOC, blob.meta and blob.digest
    assert caplog.text.count("came right the second time") == 3
