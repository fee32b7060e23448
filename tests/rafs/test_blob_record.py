"""The blob table entry: which values pass, which are the image's fault, which are ours."""

from __future__ import annotations

from typing import Any

import pytest

from native.dataplane import BLOB_RECORD
from rafs.blob_record import BlobRecord, Feature, parse_blob_id
from rafs.codes import Compressor, Digester
from rafs.errors import ImageCorrupt, ImageUnsupported
from tests.fakes.blobs import BLOB_ID, SHA256, ZSTD, make_blob, make_chunks

FAKE = make_blob(make_chunks([5000, 100]), codec=ZSTD, digester=SHA256)


def entry(**changes: Any) -> Any:
    return BLOB_RECORD.parse(FAKE.entry)._replace(**changes)


def test_a_good_entry_is_taken_over() -> None:
    record = BlobRecord.parse(entry())
    assert (record.blob_id, record.chunk_count, record.uncompressed_size) == (BLOB_ID, 2, 12288)
    assert (record.compressor, record.digester) == (Compressor.ZSTD, Digester.SHA256)
    assert record.chunk_data_end == record.ci_offset - 512
    assert record.toc_digest is not None


def test_the_end_of_chunk_data_depends_on_framing() -> None:
    plain = BlobRecord.parse(BLOB_RECORD.parse(make_blob(FAKE.chunks, toc=False).entry))
    assert plain.chunk_data_end == plain.ci_offset
    old = BlobRecord.parse(entry(features=Feature.ALIGNED))
    assert old.chunk_data_end == old.compressed_size


@pytest.mark.parametrize(
    "changes",
    [
        {"blob_id": b"../../etc/passwd"},
        {"blob_id": b"AB" * 32},
        {"blob_id": b"ab" * 31 + b"\0" * 2},
        {"blob_id": b"ab" * 16 + b"\0" + b"ab" * 15 + b"a"},
        {"blob_id": b"\xff" * 64},
        {"chunk_count": 0},
        {"chunk_count": (1 << 24) + 1},
        {"chunk_size": 0},
        {"chunk_size": 2048},
        {"chunk_size": 3 << 20},
        {"chunk_size": 32 << 20},
        {"features": 0x40000000},
        {"compressed_size": (1 << 40) + 1},
        {"uncompressed_size": 0},
        {"uncompressed_size": 4097},
        {"uncompressed_size": (1 << 44) + 4096},
        {"toc_size": 384},
        {"toc_size": 1000},
        {"toc_size": 65536 + 128},
        {"ci_uncompressed_size": 33},
        {"ci_uncompressed_size": 48},
        {"ci_compressed_size": 0},
        {"ci_compressed_size": 33},
        {"ci_compressed_size": 31},
        {"ci_offset": 511},
        {"ci_offset": (1 << 64) - 1},
    ],
)
def test_what_the_format_forbids_is_the_image_being_corrupt(changes: dict[str, Any]) -> None:
    with pytest.raises(ImageCorrupt):
        BlobRecord.parse(entry(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        *({"features": 0x40000001 | bit} for bit in (0x8, 0x10, 0x40, 0x80, 0x100, 0x200, 0x800)),
        {"features": 0x40000001 | 0x1000},
        {"features": 0xC0000001},
        {"compression_algo": 4},
        {"ci_compressor": 9},
        {"digest_algo": 2},
        {"cipher_algo": 1},
    ],
)
def test_what_we_cannot_read_is_unsupported(changes: dict[str, Any]) -> None:
    with pytest.raises(ImageUnsupported, match=BLOB_ID):
        BlobRecord.parse(entry(**changes))


def test_unknown_compatible_bits_are_ignored() -> None:
    assert BlobRecord.parse(entry(features=0x7F000401 | 0x20)).chunk_count == 2


def test_the_id_may_come_from_the_file_name() -> None:
    other = "0123456789abcdef" * 4
    assert BlobRecord.parse(entry(blob_id=b"x" * 64), blob_id=other).blob_id == other
    for bad in (other.upper(), other[:-1], other + "\n", "./" + other[2:]):
        with pytest.raises(ImageCorrupt):
            parse_blob_id(bad)
