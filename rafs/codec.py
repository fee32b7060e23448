"""One chunk: stored bytes to plain bytes, and its digest (RAFS format specification, 5.2, 5.3 and 9.3.16).

Pure functions that run in worker threads: every library called here releases the GIL while it works.
Sizes come from validated records (at most MAX_CHUNK_SIZE) and bound every allocation, whatever the stored
bytes claim about themselves. The output has exactly the recorded size, or there is none.
"""

from __future__ import annotations

import hashlib
import threading
import zlib

import blake3
import lz4.block
import zstandard

from rafs.codes import MAX_CHUNK_SIZE, Buffer, Compressor, Digester
from rafs.errors import BlobCorrupt

#: a zstd frame written in one shot never has a larger window than its content
_ZSTD_WINDOW_LIMIT = MAX_CHUNK_SIZE


class _PerThread(threading.local):
    """A zstd context is not thread-safe and costs more to make than a small chunk costs to decode."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_LIMIT)


_per_thread = _PerThread()


def decode_chunk(stored: Buffer, *, compressor: Compressor, size: int) -> Buffer:
    """Return exactly `size` plain bytes of one stored chunk.

    `compressor` is that of the chunk: NONE for a chunk that was stored plain in a compressed blob.
    Raises BlobCorrupt when the bytes do not decode to that size; bytes after the end of a gzip member
    are ignored (5.2: legacy eStargz records an upper bound of the compressed size).
    """
    plain = _DECODERS[compressor](stored, size)
    if len(plain) != size:
        raise BlobCorrupt(f"{compressor.name.lower()} data gives {len(plain)} bytes instead of {size}")
    return plain


def _decode_none(stored: Buffer, size: int) -> Buffer:
    return stored


def _decode_lz4_block(stored: Buffer, size: int) -> Buffer:
    try:
        return bytes_of(lz4.block.decompress(stored, uncompressed_size=size))
    except lz4.block.LZ4BlockError as error:
        raise BlobCorrupt(f"not an lz4 block of {size} bytes: {error}") from None


def _decode_gzip(stored: Buffer, size: int) -> Buffer:
    inflate = zlib.decompressobj(wbits=31)
    try:
        plain = inflate.decompress(stored, size)
        # the trailer, if it was not needed for the output, and what would be too much
        excess = b"" if inflate.eof else inflate.decompress(inflate.unconsumed_tail, 1)
    except zlib.error as error:
        raise BlobCorrupt(f"not a gzip member: {error}") from None
    if excess:
        raise BlobCorrupt(f"gzip data gives more than {size} bytes")
    if not inflate.eof:
        raise BlobCorrupt("gzip member is cut off")
    return plain


def _decode_zstd(stored: Buffer, size: int) -> Buffer:
    try:
        # the library would allocate what the frame claims, so the claim is checked first
        claimed = zstandard.frame_content_size(stored)
        if claimed not in (-1, size):
            raise BlobCorrupt(f"zstd frame claims {claimed} bytes instead of {size}")
        return _per_thread.zstd.decompress(stored, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BlobCorrupt(f"not a zstd frame of {size} bytes: {error}") from None


_DECODERS = {
    Compressor.NONE: _decode_none,
    Compressor.LZ4_BLOCK: _decode_lz4_block,
    Compressor.GZIP: _decode_gzip,
    Compressor.ZSTD: _decode_zstd,
}


def bytes_of(value: object) -> bytes:
    """Narrow the result of an untyped library to bytes."""
    assert isinstance(value, bytes)
    return value


def chunk_digest(plain: Buffer, digester: Digester) -> bytes:
    """Return the 32-byte digest of a plain chunk."""
    if digester is Digester.SHA256:
        return hashlib.sha256(plain).digest()
    return blake3.blake3(plain).digest()


def verify_chunk(plain: Buffer, digester: Digester, expected: bytes) -> None:
    """Raise BlobCorrupt unless `plain` has the digest `expected`."""
    actual = chunk_digest(plain, digester)
    if actual != expected:
        name = digester.name.lower()
        raise BlobCorrupt(f"{name} is {actual.hex()}, the image says {expected.hex()}")
