"""Tar framing and TOC: each check, and the TOC's digest over all of it."""

from __future__ import annotations

import hashlib
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from native.dataplane import BLOB_RECORD
from rafs.blob_record import BlobRecord
from rafs.errors import ImageCorrupt, ImageUnsupported, RafsError
from rafs.toc import TocEntry, extract, parse_tar_header, parse_toc, toc_range, walk_sections
from tests.fakes.blobs import make_blob, make_chunks, tar_header

FAKE = make_blob(make_chunks([5000, 100, 9000]))
RECORD = BlobRecord.parse(BLOB_RECORD.parse(FAKE.entry))
SIZE = len(FAKE.content)
TAIL = FAKE.content[-RECORD.toc_size :]


def test_a_tar_header_gives_its_section() -> None:
    section = parse_tar_header(tar_header("blob.meta", 4128), at=10_000)
    assert (section.name, section.offset, section.size) == ("blob.meta", 10_000 - 4128, 4128)


@pytest.mark.parametrize(
    "at, value, reason",
    [
        (257, b"ustar\x0000", "no tar header"),  # POSIX, not GNU
        (156, b"5", "no tar header"),  # a directory
        (124, b"00000010041", "checksum"),
        (124, b"0000001004x", "checksum"),
        (148, b"zzzzzz", "octal"),
        (148, bytes(8), "octal"),
        (0, b"c", "checksum"),
    ],
)
def test_what_is_not_a_header_is_refused(at: int, value: bytes, reason: str) -> None:
    header = bytearray(tar_header("blob.meta", 4128))
    header[at : at + len(value)] = value
    with pytest.raises(ImageCorrupt, match=reason):
        parse_tar_header(bytes(header), at=10_000)


def test_a_size_from_8_gib_on_is_binary() -> None:
    header = bytearray(tar_header("image.blob", 0))
    header[124:136] = b"\x80" + (9 << 30).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert parse_tar_header(bytes(header), at=9 << 30).size == 9 << 30


def test_a_section_cannot_begin_before_the_blob() -> None:
    assert parse_tar_header(tar_header("x", 4128), at=4128).offset == 0
    with pytest.raises(ImageCorrupt, match="4128 bytes"):
        parse_tar_header(tar_header("x", 4128), at=4127)


def test_walk_stops_at_the_beginning_and_at_rubbish() -> None:
    def read(offset: int, length: int) -> bytes:
        return FAKE.content[offset : offset + length]

    names = [section.name for section in walk_sections(read, SIZE)]
    assert names == ["rafs.blob.toc", "blob.digest", "blob.meta", "image.blob"]
    assert list(walk_sections(lambda offset, length: bytes(length), 511)) == []
    with pytest.raises(ImageCorrupt):
        list(walk_sections(lambda offset, length: bytes(length), 5000))


def test_the_tail_to_read() -> None:
    assert toc_range(100_000, 1024) == (98_976, 1024)
    assert toc_range(100_000, 0) == (95_904, 4096)
    assert toc_range(1000, 0) == (104, 896)  # a multiple of 128
    for size in (100, 511):
        with pytest.raises(ImageCorrupt, match="no room"):
            toc_range(size, 0)
    with pytest.raises(ImageCorrupt, match="no room"):
        toc_range(1000, 1024)


def test_the_toc_is_parsed_with_and_without_the_blob_table() -> None:
    known = parse_toc(TAIL, SIZE, toc_size=RECORD.toc_size, toc_digest=RECORD.toc_digest)
    offset, length = toc_range(SIZE, 0)
    probed = parse_toc(FAKE.content[offset : offset + length], SIZE, toc_size=0, toc_digest=None)
    assert known.is_authentic and not probed.is_authentic
    assert known.entries == probed.entries
    assert [entry.name for entry in known.entries] == [
        "image.blob",
        "blob.meta",
        "blob.meta.header",
        "blob.digest",
    ]
    for entry in known.entries[1:]:
        assert extract(entry, FAKE.content[entry.offset : entry.offset + entry.stored_size])
    assert known.find("image.boot") is None


def test_the_digest_may_be_of_the_entries_alone() -> None:
    digest = hashlib.sha256(TAIL[:-512]).digest()
    assert parse_toc(TAIL, SIZE, toc_size=RECORD.toc_size, toc_digest=digest).is_authentic


@given(at=st.integers(0, len(TAIL) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(at: int, bit: int) -> None:
    bad = bytearray(TAIL)
    bad[at] ^= 1 << bit
    with pytest.raises(ImageCorrupt):
        parse_toc(bytes(bad), SIZE, toc_size=RECORD.toc_size, toc_digest=RECORD.toc_digest)


@given(entries=st.binary(max_size=600), size=st.none() | st.integers(0, 2000))
def test_any_entries_are_parsed_or_refused(entries: bytes, size: int | None) -> None:
    tail = entries + tar_header("rafs.blob.toc", len(entries) if size is None else size)
    try:
        toc = parse_toc(tail, 10_000, toc_size=0, toc_digest=None)
    except RafsError:
        return
    for entry in toc.entries:
        assert entry.offset + entry.stored_size <= 10_000 - 512


def test_a_toc_of_another_size_than_recorded_is_refused() -> None:
    for toc_size in (RECORD.toc_size - 128, RECORD.toc_size + 128):
        with pytest.raises(ImageCorrupt, match="the blob table says"):
            parse_toc(FAKE.content[-toc_size:], SIZE, toc_size=toc_size, toc_digest=None)
    with pytest.raises(ImageCorrupt, match=r"'blob\.digest'"):
        parse_toc(FAKE.content[: -RECORD.toc_size], SIZE - RECORD.toc_size, toc_size=0, toc_digest=None)


def entry_bytes(flags: int, name: bytes = b"image.boot", offset: int = 0, stored: int = 10) -> bytes:
    return struct.pack("<II16s32sQQQ48s", flags, 0, name, bytes(32), offset, stored, 10, bytes(48))


@pytest.mark.parametrize("flags", [0, 3, 5, 8, 0x11, 0x80000001])
def test_exactly_one_known_codec_must_be_set(flags: int) -> None:
    tail = entry_bytes(flags) + tar_header("rafs.blob.toc", 128)
    with pytest.raises(ImageCorrupt, match="flags"):
        parse_toc(tail, 10_000, toc_size=0, toc_digest=None)


def test_an_entry_outside_the_blob_is_refused() -> None:
    tail = entry_bytes(1, offset=(1 << 64) - 1) + tar_header("rafs.blob.toc", 128)
    with pytest.raises(ImageCorrupt, match="outside"):
        parse_toc(tail, 10_000, toc_size=0, toc_digest=None)


def zstd_entry(plain: bytes, size: int) -> TocEntry:
    return TocEntry("image.boot", 2, hashlib.sha256(plain).digest(), 0, 0, size)


def test_a_compressed_section_is_extracted_and_bounded() -> None:
    plain = bytes(1 << 20)
    stored = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    assert extract(zstd_entry(plain, len(plain)), stored) == plain
    for size in (0, len(plain) - 1, len(plain) + 1, 1 << 40):
        with pytest.raises(ImageCorrupt):
            extract(zstd_entry(plain, size), stored)
    with pytest.raises(ImageCorrupt, match="zstd"):
        extract(zstd_entry(plain, len(plain)), b"no zstd at all")
    with pytest.raises(ImageCorrupt, match="SHA-256"):
        extract(zstd_entry(b"x" * len(plain), len(plain)), stored)
    with pytest.raises(ImageUnsupported):
        extract(TocEntry("image.boot", 4, None, 0, 10, 10), b"0123456789")
