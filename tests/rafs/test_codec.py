"""Decoding: exact sizes, hostile inputs bounded, digests."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import resource
import zlib

import blake3
import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rafs.codec import chunk_digest, decode_chunk, verify_chunk
from rafs.codes import Compressor, Digester
from rafs.errors import BlobCorrupt
from tests.fakes import blobs

PLAIN = b"0123456789abcdef" * 4096
STORED = {
    Compressor.NONE: PLAIN,
    Compressor.LZ4_BLOCK: lz4.block.compress(PLAIN, store_size=False),
    Compressor.GZIP: gzip.compress(PLAIN, mtime=0),
    Compressor.ZSTD: zstandard.ZstdCompressor(level=3).compress(PLAIN),
}
UNSIZED_ZSTD = zstandard.ZstdCompressor(write_content_size=False).compress(PLAIN)


@pytest.mark.parametrize("compressor", Compressor)
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_stored_bytes_give_the_chunk(compressor: Compressor, wrap: type) -> None:
    assert bytes(decode_chunk(wrap(STORED[compressor]), compressor=compressor, size=len(PLAIN))) == PLAIN


@pytest.mark.parametrize("compressor", Compressor)
@pytest.mark.parametrize("size", [1, len(PLAIN) - 1, len(PLAIN) + 1])
def test_another_size_than_recorded_is_refused(compressor: Compressor, size: int) -> None:
    with pytest.raises(BlobCorrupt):
        decode_chunk(STORED[compressor], compressor=compressor, size=size)


@pytest.mark.parametrize("compressor", [Compressor.LZ4_BLOCK, Compressor.GZIP, Compressor.ZSTD])
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_cut_data_is_refused(compressor: Compressor, cut: int) -> None:
    stored = STORED[compressor][:cut] if cut < 5 else STORED[compressor][:-1]
    with pytest.raises(BlobCorrupt):
        decode_chunk(stored, compressor=compressor, size=len(PLAIN))


def test_bytes_behind_a_gzip_member_are_ignored() -> None:
    stored = STORED[Compressor.GZIP] + b"next member, or rubbish"
    assert decode_chunk(stored, compressor=Compressor.GZIP, size=len(PLAIN)) == PLAIN


def test_bytes_behind_a_zstd_frame_are_refused() -> None:
    with pytest.raises(BlobCorrupt):
        decode_chunk(STORED[Compressor.ZSTD] + b"x", compressor=Compressor.ZSTD, size=len(PLAIN))


def test_zstd_without_a_content_size_works_and_is_bounded() -> None:
    assert decode_chunk(UNSIZED_ZSTD, compressor=Compressor.ZSTD, size=len(PLAIN)) == PLAIN
    for size in (len(PLAIN) - 1, len(PLAIN) + 1):
        with pytest.raises(BlobCorrupt):
            decode_chunk(UNSIZED_ZSTD, compressor=Compressor.ZSTD, size=size)


def test_bombs_do_not_take_memory() -> None:
    """1 GiB of zeros in three wrappings, and frames that only claim to be large, against a 4 KiB chunk."""
    compressor = zstandard.ZstdCompressor().compressobj()
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    frame = b"".join(compressor.compress(zeros) for _ in range(1024)) + compressor.flush()
    member = b"".join(deflate.compress(zeros) for _ in range(1024)) + deflate.flush()
    claim = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
    wide_window = b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"  # window of 2 GiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for stored, compressor_code in [
        (frame, Compressor.ZSTD),
        (member, Compressor.GZIP),
        (claim, Compressor.ZSTD),
        (wide_window, Compressor.ZSTD),
        (b"\x1f" + b"\xff" * 300_000, Compressor.LZ4_BLOCK),
    ]:
        with pytest.raises(BlobCorrupt):
            decode_chunk(stored, compressor=compressor_code, size=4096)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 64 << 10


@given(
    stored=st.binary(max_size=300),
    compressor=st.sampled_from([Compressor.LZ4_BLOCK, Compressor.GZIP, Compressor.ZSTD]),
    size=st.integers(1, 5000),
)
def test_any_bytes_decode_to_the_size_or_are_refused(
    stored: bytes, compressor: Compressor, size: int
) -> None:
    with contextlib.suppress(BlobCorrupt):
        assert len(decode_chunk(stored, compressor=compressor, size=size)) == size


@given(plain=st.binary(min_size=1, max_size=2000), codec=st.sampled_from(Compressor))
def test_what_compresses_decodes(plain: bytes, codec: Compressor) -> None:
    stored = blobs.compress(codec, plain)
    used = codec if len(stored) < len(plain) else Compressor.NONE
    assert decode_chunk(stored, compressor=used, size=len(plain)) == plain


def test_digests() -> None:
    assert chunk_digest(PLAIN, Digester.SHA256) == hashlib.sha256(PLAIN).digest()
    assert chunk_digest(PLAIN, Digester.BLAKE3) == blake3.blake3(PLAIN).digest()
    verify_chunk(PLAIN, Digester.SHA256, hashlib.sha256(PLAIN).digest())
    with pytest.raises(BlobCorrupt, match=f"sha256 is {hashlib.sha256(PLAIN).hexdigest()}"):
        verify_chunk(PLAIN, Digester.SHA256, bytes(32))
