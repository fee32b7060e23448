"""The blobs that upstream's builder made: every section parses, every chunk decodes and has its digest."""

from __future__ import annotations

import hashlib
import stat
from functools import partial
from pathlib import Path

import pytest

from native.dataplane import ChunkStore
from native.records import Record
from rafs.backend import LocalBackend
from rafs.blob_meta import BlobMeta, pack_meta_file, unpack_section
from rafs.blob_record import CI_HEADER_SIZE, BlobRecord, Feature
from rafs.blob_store import BlobStore
from rafs.codec import decode_chunk, verify_chunk
from rafs.codes import Compressor, Digester
from rafs.errors import ImageCorrupt
from rafs.fetch import FetchResources
from rafs.image import Image
from rafs.toc import Toc, extract, parse_toc, toc_range, walk_sections
from rafs.upcalls import Upcalls
from tests.fakes.blob_store import joined

V6_BLOB = "be7d77eeb719f70884758d1aa800ed0fb09d701aaec469964e9d54325f0d5fef"
TOC_BLOB = "2fa78cad554b75ac91a4a125ed148d0ddeb25efa4aaa8bd80e5dc292690a4dca"


def blob_table(bootstrap: bytes) -> list[object]:
    superblock = Record("rafs_v6_super_block").parse(bootstrap, 1152)
    entry = Record("rafs_v6_blob")
    end = superblock.blob_table_offset + superblock.blob_table_size
    return [entry.parse(bootstrap, at) for at in range(superblock.blob_table_offset, end, entry.size)]


def chunk_table(bootstrap: bytes) -> dict[int, bytes]:
    superblock = Record("rafs_v6_super_block").parse(bootstrap, 1152)
    entry = Record("rafs_chunk_record")
    end = superblock.chunk_table_offset + superblock.chunk_table_size
    records = [entry.parse(bootstrap, at) for at in range(superblock.chunk_table_offset, end, entry.size)]
    return {record.chunk_index: record.digest for record in records}


def read_toc(blob: bytes, *, size: int = 0, digest: bytes | None = None) -> Toc:
    offset, length = toc_range(len(blob), size)
    return parse_toc(blob[offset : offset + length], len(blob), toc_size=size, toc_digest=digest)


def read_slice(blob: bytes, offset: int, length: int) -> bytes:
    return blob[offset : offset + length]


def section_of(blob: bytes, toc: Toc, name: str) -> bytes:
    entry = toc.find(name)
    assert entry is not None
    return extract(entry, blob[entry.offset : entry.offset + entry.stored_size])


def meta_of(blob: bytes, record: BlobRecord) -> BlobMeta:
    end = record.ci_offset + record.ci_compressed_size + CI_HEADER_SIZE
    file = pack_meta_file(*unpack_section(record, blob[record.ci_offset : end]))
    return BlobMeta(record, lambda offset, length: file[offset : offset + length])


@pytest.fixture(scope="module")
def v6_image(fixtures_dir: Path) -> tuple[bytes, bytes]:
    folder = fixtures_dir / "rafs-v6-2.2"
    return (folder / "rafs-v6-2.2.boot").read_bytes(), (folder / V6_BLOB).read_bytes()


@pytest.fixture(scope="module")
def toc_blob(fixtures_dir: Path) -> bytes:
    return (fixtures_dir / "blob-toc" / TOC_BLOB).read_bytes()


def test_v6_blob_decodes_to_the_digests_of_blob_digest_and_chunk_table(v6_image: tuple[bytes, bytes]) -> None:
    bootstrap, blob = v6_image
    record = BlobRecord.parse(blob_table(bootstrap)[0])
    assert (record.blob_id, record.compressor, record.chunk_count) == (V6_BLOB, Compressor.ZSTD, 2)
    toc = read_toc(blob, size=record.toc_size, digest=record.toc_digest)
    assert toc.is_authentic
    digests = section_of(blob, toc, "blob.digest")
    meta = meta_of(blob, record)
    assert len(meta) == 2
    for chunk in meta.chunks(0, len(meta)):
        plain = decode_chunk(
            blob[chunk.compressed_offset : chunk.compressed_end],
            compressor=record.compressor if chunk.is_compressed else Compressor.NONE,
            size=chunk.uncompressed_size,
        )
        expected = digests[32 * chunk.chunk_idx :][:32]
        verify_chunk(plain, record.digester, expected)
        assert chunk_table(bootstrap)[chunk.chunk_idx] == expected
    meta.check_all()


def test_v6_toc_covers_every_section(v6_image: tuple[bytes, bytes]) -> None:
    blob = v6_image[1]
    toc = read_toc(blob)  # found without the blob table
    assert not toc.is_authentic
    assert [entry.name for entry in toc.entries] == [
        "image.blob",
        "blob.meta",
        "blob.meta.header",
        "blob.digest",
    ]
    for name in ("blob.meta", "blob.meta.header", "blob.digest"):
        assert section_of(blob, toc, name)
    data = toc.find("image.blob")
    assert data is not None and data.digest == hashlib.sha256(blob[: data.stored_size + 512]).digest()


def test_v6_toc_digest_of_the_blob_table_is_checked(v6_image: tuple[bytes, bytes]) -> None:
    bootstrap, blob = v6_image
    record = BlobRecord.parse(blob_table(bootstrap)[0])
    offset = len(blob) - record.toc_size
    for at in (offset + 24, offset + 56, len(blob) - 400):  # an entry's digest, its offset, the tar header
        bad = bytearray(blob)
        bad[at] ^= 1
        with pytest.raises(ImageCorrupt):
            read_toc(bytes(bad), size=record.toc_size, digest=record.toc_digest)
    # some merged images carry the digest of the entries alone
    entries_only = hashlib.sha256(blob[offset:-512]).digest()
    assert read_toc(blob, size=record.toc_size, digest=entries_only).is_authentic


def test_sections_are_found_backwards(v6_image: tuple[bytes, bytes], toc_blob: bytes) -> None:
    for blob, names in [
        (v6_image[1], ["rafs.blob.toc", "blob.digest", "blob.meta", "image.blob"]),
        (toc_blob, ["rafs.blob.toc", "image.boot", "blob.meta", "image.blob"]),
    ]:
        sections = list(walk_sections(partial(read_slice, blob), len(blob)))
        assert [section.name for section in sections] == names
        assert sections[-1].offset == 0


def test_inline_bootstrap_of_the_toc_blob_describes_its_chunks(toc_blob: bytes) -> None:
    toc = read_toc(toc_blob)
    bootstrap = section_of(toc_blob, toc, "image.boot")
    entry = blob_table(bootstrap)[0]
    # its file was renamed after it was built: the id is that of the file (1.6)
    record = BlobRecord.parse(entry, blob_id=TOC_BLOB)
    assert record.blob_id == TOC_BLOB != BlobRecord.parse(entry).blob_id
    assert Feature.CAP_TAR_TOC not in record.features
    meta = meta_of(toc_blob, record)
    assert len(meta) == 3
    digests = chunk_table(bootstrap)
    for chunk in meta.chunks(0, 3):
        plain = decode_chunk(
            toc_blob[chunk.compressed_offset : chunk.compressed_end],
            compressor=record.compressor if chunk.is_compressed else Compressor.NONE,
            size=chunk.uncompressed_size,
        )
        verify_chunk(plain, record.digester, digests[chunk.chunk_idx])


async def test_v6_image_is_cached_as_the_bootstrap_says(fixtures_dir: Path, tmp_path: Path) -> None:
    """The whole blob side on upstream's image: each file's chunks lie READY where the bootstrap points."""
    folder = fixtures_dir / "rafs-v6-2.2"
    image, chunks, backend = Image(folder / "rafs-v6-2.2.boot"), ChunkStore(), LocalBackend(folder)
    upcalls, resources = Upcalls(chunks), FetchResources()
    upcalls.start()
    store = BlobStore(joined(tmp_path), backend, upcalls, resources)
    store.start()
    blob = await store.open_blob(image.blob_record(0), digests=image.chunk_digests(0))
    await store.fill(blob)
    statistics = store.statistics()
    assert (statistics["verified_chunks"], statistics["unverified_chunks"]) == (2, 0)
    data = (tmp_path / f"{V6_BLOB}.blob.data").read_bytes()
    assert len(data) == 36864
    digests = image.chunk_digests(0)
    read = 0
    for _, inode in image.walk():
        if stat.S_ISREG(inode.mode):
            for extent in image.extents(inode.nid, 0, inode.size):
                plain = data[extent.blob_offset + extent.offset_in_chunk :][: extent.length]
                assert blob.native.is_ready(extent.chunk_index)
                verify_chunk(plain, Digester.BLAKE3, digests[extent.chunk_index])
                read += 1
    assert read == 2
    upcalls.stop()
    await store.close()
    resources.close()
    await backend.close()
    image.close()
    chunks.close()
    assert not (tmp_path / f"{V6_BLOB}.blob.data.unsynced").exists()
