"""`verify`: what lies in a cache directory against the digests beside it, or those of an image."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from native.rafs_v6 import RAFS_CHUNK_MAP_ALL_READY
from rafs.blob_record import BlobRecord
from rafs.errors import CacheError, ImageCorrupt
from rafs.verify import BlobReport, repair, stored_chunks, verify_blob, vouched_chunks
from tests.fakes.blob_store import COUNT, FAKE, SIZES, data_of, running
from tests.fakes.blobs import BLOB_ID, SHA256, FakeBlob, MemoryBackend, make_blob, make_chunks
from tests.rafs.test_scrub import spoil

MAP = f"{BLOB_ID}.blob.data.chunk_map"


def record_of(fake: FakeBlob) -> BlobRecord:
    return BlobRecord.parse(BLOB_RECORD.parse(fake.entry))


def filled(directory: Path, fake: FakeBlob = FAKE, *missing: int) -> Path:
    async def fill() -> None:
        async with running(directory, MemoryBackend({BLOB_ID: fake.content}), fake) as run:
            for index in range(len(fake.chunks)):
                if index not in missing:
                    await run.miss(index)

    asyncio.run(fill())
    return directory


@pytest.mark.parametrize("digester", [0, SHA256])
@pytest.mark.parametrize("v2", [False, True])
def test_good_chunks_are_good(tmp_path: Path, digester: int, v2: bool) -> None:
    fake = make_blob(make_chunks(SIZES), digester=digester, v2=v2)
    heard: list[int] = []
    report = verify_blob(filled(tmp_path, fake, 4), BLOB_ID, progress=heard.append)
    left = [size for index, size in enumerate(SIZES) if index != 4]
    assert report == BlobReport(BLOB_ID, COUNT, COUNT - 1, COUNT - 1, sum(left))
    assert heard == left


def test_corrupt_chunks_are_found_and_fetched_again_after_a_repair(tmp_path: Path) -> None:
    spoil(filled(tmp_path), 0, 5)
    for chunks in (None, vouched_chunks(tmp_path, record_of(FAKE), None)):
        report = verify_blob(tmp_path, BLOB_ID, chunks)
        assert report.corrupt == [0, 5] and report.checked == COUNT
    repair(tmp_path, report)
    assert verify_blob(tmp_path, BLOB_ID).ready == COUNT - 2
    filled(tmp_path)
    assert data_of(tmp_path) == FAKE.image() and verify_blob(tmp_path, BLOB_ID).corrupt == []


def test_a_repair_of_a_map_that_nydusd_called_ready(tmp_path: Path) -> None:
    content = bytearray((filled(tmp_path) / MAP).read_bytes())
    content[12:16] = RAFS_CHUNK_MAP_ALL_READY.to_bytes(4, "little")
    (tmp_path / MAP).write_bytes(content)
    spoil(tmp_path, 3)
    report = verify_blob(tmp_path, BLOB_ID)
    assert report.corrupt == [3]
    repair(tmp_path, report)
    assert verify_blob(tmp_path, BLOB_ID).ready == COUNT - 1


def test_digests_of_an_image_go_first(tmp_path: Path) -> None:
    """The image has them in its chunk table; what lies beside the cache may say what it likes."""
    filled(tmp_path)
    digests = dict(enumerate(FAKE.digests))
    (tmp_path / f"{BLOB_ID}.blob.digest").write_bytes(bytes(32 * COUNT))
    assert verify_blob(tmp_path, BLOB_ID).corrupt == list(range(COUNT))
    report = verify_blob(tmp_path, BLOB_ID, vouched_chunks(tmp_path, record_of(FAKE), digests))
    assert report.corrupt == [] and report.checked == COUNT
    with pytest.raises(ImageCorrupt, match=r"blob\.digest"):
        vouched_chunks(tmp_path, record_of(FAKE), None)


@pytest.mark.parametrize("name", ["meta", "digest"])
def test_what_cannot_be_checked_says_why(tmp_path: Path, name: str) -> None:
    (filled(tmp_path) / f"{BLOB_ID}.blob.{name}").unlink()
    with pytest.raises(CacheError, match=rf"it has no blob\.{name} here; name an image"):
        stored_chunks(tmp_path, BLOB_ID)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("meta", b"x" * 9000, "is no blob.meta"),
        ("meta", b"", "is empty"),
        ("digest", bytes(31), "do not fit together"),
        ("data.chunk_map", bytes(4096), "is not the chunk map of a blob with 8 chunks"),
        ("chunks", bytes(8192), "is no table of chunks"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (filled(tmp_path) / f"{BLOB_ID}.blob.{name}").write_bytes(content)
    if name == "chunks":
        content = content[:4096]
        (tmp_path / f"{BLOB_ID}.blob.chunks").write_bytes(content)
    with pytest.raises(CacheError, match=reason):
        verify_blob(tmp_path, BLOB_ID)
