"""CI records and header: round trips against an independent packer, and what hostile ones come to."""

from __future__ import annotations

import contextlib
import itertools
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.dataplane import BLOB_RECORD
from rafs.blob_meta import (
    BlobMeta,
    check_header,
    meta_file_size,
    pack_meta_file,
    parse_record_v1,
    parse_record_v2,
    unpack_section,
)
from rafs.blob_record import BlobRecord
from rafs.errors import CacheError, ImageCorrupt, ImageUnsupported, RafsError
from tests.fakes.blobs import LZ4, ZSTD, FakeBlob, ci_record_v1, ci_record_v2, make_blob, make_chunks

SIZES = [4096, 1, 70_000, 4097, 300]
offsets = st.integers(0, (1 << 32) - 1).map(lambda block: block << 12)
stored_offsets = st.integers(0, (1 << 40) - 1)
sizes = st.integers(1, 1 << 24)


@given(offset=offsets, size=sizes, stored_offset=stored_offsets, stored_size=sizes)
def test_record_v1_round_trip(offset: int, size: int, stored_offset: int, stored_size: int) -> None:
    words = struct.unpack("<QQ", ci_record_v1(offset, size, stored_offset, stored_size))
    chunk = parse_record_v1(7, *words)
    assert chunk[:5] == (7, offset, size, stored_offset, stored_size)
    assert chunk.is_compressed == (size != stored_size)
    assert chunk.crc32c is None


@given(
    offset=offsets,
    size=sizes,
    stored_offset=stored_offsets,
    stored_size=st.integers(0, (1 << 24) - 1),
    is_compressed=st.booleans(),
    crc=st.none() | st.integers(1, (1 << 32) - 1),
)
def test_record_v2_round_trip(
    offset: int, size: int, stored_offset: int, stored_size: int, is_compressed: bool, crc: int | None
) -> None:
    flags = is_compressed | (0x10 if crc else 0)
    record = ci_record_v2(offset, size, stored_offset, stored_size, flags, crc or 0)
    chunk = parse_record_v2(9, *struct.unpack("<QQQ", record))
    assert chunk == (9, offset, size, stored_offset, stored_size, is_compressed, crc)


@pytest.mark.parametrize("flag", [2, 4, 8])
def test_zran_batched_and_encrypted_records_are_unsupported(flag: int) -> None:
    with pytest.raises(ImageUnsupported, match="chunk 3 "):
        parse_record_v2(3, *struct.unpack("<QQQ", ci_record_v2(0, 1, 0, 1, flag)))


def meta_of(fake: FakeBlob, **changes: object) -> BlobMeta:
    record = replace(BlobRecord.parse(BLOB_RECORD.parse(fake.entry)), **changes)  # type: ignore[arg-type]
    return BlobMeta(record, lambda offset, length: fake.meta_file[offset : offset + length])


def section_of(fake: FakeBlob) -> tuple[BlobRecord, bytes]:
    record = BlobRecord.parse(BLOB_RECORD.parse(fake.entry))
    return record, fake.content[record.ci_offset : record.ci_offset + record.ci_compressed_size + 4096]


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("ci_codec", [0, LZ4, ZSTD])
def test_section_becomes_the_meta_file(v2: bool, ci_codec: int) -> None:
    fake = make_blob(make_chunks([100] * 300), v2=v2, ci_codec=ci_codec)
    record, section = section_of(fake)
    assert record.ci_compressor == ci_codec
    content = pack_meta_file(*unpack_section(record, section))
    assert content == fake.meta_file
    assert len(content) == meta_file_size(record)


@pytest.mark.parametrize("at", [0, 4, 8, 12, 16, 24, 32, 4092])
def test_each_header_field_is_checked(at: int) -> None:
    fake = make_blob(make_chunks(SIZES))
    record, section = section_of(fake)
    header = bytearray(section[-4096:])
    header[at] ^= 4  # in the features that is the record format
    with pytest.raises(ImageCorrupt, match=record.blob_id):
        check_header(bytes(header), record)


def test_other_feature_bits_of_the_header_are_not_compared() -> None:
    fake = make_blob(make_chunks(SIZES))
    record, section = section_of(fake)
    header = bytearray(section[-4096:])
    header[4:8] = struct.pack("<I", 1)  # as blob-toc in the fixtures has it
    check_header(bytes(header), record)


def test_compressed_ci_data_that_does_not_decode_is_corrupt() -> None:
    fake = make_blob(make_chunks([100] * 300), ci_codec=ZSTD)
    record, section = section_of(fake)
    with pytest.raises(ImageCorrupt, match=r"blob\.meta"):
        unpack_section(record, b"\0" * record.ci_compressed_size + section[-4096:])


@pytest.mark.parametrize("v2", [False, True])
def test_chunks_on_demand(v2: bool) -> None:
    fake = make_blob(make_chunks(SIZES), v2=v2)
    meta = meta_of(fake)
    meta.check_all()
    everything = list(meta.chunks(0, 5))
    assert [chunk.uncompressed_offset for chunk in everything] == fake.offsets
    assert [chunk.uncompressed_size for chunk in everything] == SIZES
    assert [meta.chunk(index) for index in range(5)] == everything
    assert list(meta.chunks(2, 0)) == []


@pytest.mark.parametrize("first, count", [(5, 1), (4, 2), (-1, 1), (0, 6), (1 << 40, 1)])
def test_an_index_out_of_range_is_the_bootstraps_fault(first: int, count: int) -> None:
    with pytest.raises(ImageCorrupt, match="5 chunks"):
        list(meta_of(make_blob(make_chunks(SIZES))).chunks(first, count))


def tampered(index: int, record: bytes, *, v2: bool = False) -> BlobMeta:
    fake = make_blob(make_chunks(SIZES), v2=v2)
    content = bytearray(fake.meta_file)
    content[index * len(record) : (index + 1) * len(record)] = record
    return meta_of(replace(fake, meta_file=bytes(content)))


@pytest.mark.parametrize(
    "record, reason",
    [
        (ci_record_v1(8192, (1 << 20) + 1, 0, 10), "chunk size"),
        (ci_record_v1(1 << 40, 10, 0, 10), "ends after"),
        (ci_record_v1(0, 10, 0, 10), "begins inside chunk 1"),
        (ci_record_v1(4096, 10, 0, 10), "begins inside chunk 1"),
        (ci_record_v1(8192, 80_000, 0, 10), "reaches into chunk 3"),
        (ci_record_v1(8192, 70_000, 0, 1 << 20), "outside of the chunk data"),
        (ci_record_v1(8192, 70_000, (1 << 40) - 1, 10), "outside of the chunk data"),
    ],
)
def test_a_bad_record_is_named_and_spoils_no_other(record: bytes, reason: str) -> None:
    meta = tampered(2, record)
    with pytest.raises(ImageCorrupt, match=f"chunk 2 .*{reason}"):
        meta.chunk(2)
    with pytest.raises(ImageCorrupt):
        meta.check_all()
    assert meta.chunk(0).chunk_idx == 0
    assert meta.chunk(4).chunk_idx == 4


@pytest.mark.parametrize("record", [ci_record_v2(8192, 70_000, 0, 0, 1), ci_record_v2(8192, 70_000, 0, 10)])
def test_bad_sizes_of_a_v2_record(record: bytes) -> None:
    with pytest.raises(ImageCorrupt, match="chunk 2 "):
        tampered(2, record, v2=True).chunk(2)


@given(data=st.data(), v2=st.booleans())
def test_hostile_records_never_give_overlapping_or_outlying_chunks(data: st.DataObject, v2: bool) -> None:
    fake = make_blob(make_chunks(SIZES), v2=v2)
    content = bytearray(fake.meta_file)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(SIZES) * (24 if v2 else 16) - 1))
        content[at] = data.draw(st.integers(0, 255))
    meta = meta_of(replace(fake, meta_file=bytes(content)))
    found = []
    for index in range(len(SIZES)):
        with contextlib.suppress(RafsError):
            found.append(meta.chunk(index))
    if len(found) == len(SIZES):
        meta.check_all()
    else:
        with pytest.raises(RafsError):
            meta.check_all()
    record = meta.record
    for chunk in found:
        assert 0 < chunk.uncompressed_size <= record.chunk_size
        assert chunk.compressed_size > 0 and chunk.compressed_end <= record.chunk_data_end
        assert chunk.uncompressed_offset + chunk.uncompressed_size <= record.uncompressed_size
    for before, after in itertools.pairwise(found):
        if before.chunk_idx + 1 == after.chunk_idx:
            assert before.slot_end <= after.uncompressed_offset


@pytest.mark.parametrize("step", [1, 2, 3])
def test_check_all_looks_across_its_steps(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr("rafs.blob_meta._CHECK_STEP", step)
    meta_of(make_blob(make_chunks(SIZES))).check_all()
    for index, record in [(2, ci_record_v1(0, 10, 0, 10)), (1, ci_record_v1(4096, 9000, 0, 10))]:
        with pytest.raises(ImageCorrupt):
            tampered(index, record).check_all()


def test_a_meta_file_that_was_cut_is_the_hosts_fault() -> None:
    fake = make_blob(make_chunks(SIZES))
    with pytest.raises(CacheError, match="cut"):
        meta_of(replace(fake, meta_file=fake.meta_file[:20])).chunk(2)
