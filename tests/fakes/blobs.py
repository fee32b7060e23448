"""Makes small RAFS v6 blobs by the words of the specification (struct only), and a back-end that serves them.

Shares no code with `rafs`: it is the other side of what `rafs` parses.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import blake3
import lz4.block
import zstandard

NONE, LZ4, GZIP, ZSTD = range(4)
BLAKE3, SHA256 = range(2)
BLOB_ID = "ab" * 32


def compress(codec: int, plain: bytes) -> bytes:
    """Stored form of a chunk; plain where compression does not pay."""
    packed = plain
    if codec == LZ4:
        packed = lz4.block.compress(plain, store_size=False)
    elif codec == GZIP:
        packed = gzip.compress(plain, mtime=0)
    elif codec == ZSTD:
        packed = zstandard.ZstdCompressor(level=3).compress(plain)
    return packed if len(packed) < len(plain) else plain


def digest(algorithm: int, plain: bytes) -> bytes:
    return hashlib.sha256(plain).digest() if algorithm == SHA256 else blake3.blake3(plain).digest()


def ci_record_v1(offset: int, size: int, stored_offset: int, stored_size: int) -> bytes:
    """Specification 3.2."""
    first = offset | ((size - 1) & 0xFFFFF) << 44 | ((size - 1) >> 20) << 8
    second = stored_offset | ((stored_size - 1) & 0xFFFFF) << 44 | ((stored_size - 1) >> 20) << 40
    return struct.pack("<QQ", first, second)


def ci_record_v2(
    offset: int, size: int, stored_offset: int, stored_size: int, flags: int = 0, attachment: int = 0
) -> bytes:
    """Specification 3.3."""
    first = offset >> 12 | (size - 1) << 32 | flags << 56
    return struct.pack("<QQQ", first, stored_offset | stored_size << 40, attachment)


def tar_header(name: str, size: int) -> bytes:
    """Specification 1.3: the header that follows its section."""
    header = bytearray(512)
    header[: len(name)] = name.encode()
    header[124:136] = b"%011o\0" % size
    header[136:148] = b"0" * 11 + b"\0"
    header[148:156] = b" " * 8
    header[156] = ord("0")
    header[257:265] = b"ustar  \0"
    header[148:156] = b"%07o\0" % sum(header)
    return bytes(header)


@dataclass
class FakeBlob:
    """A blob, what is in it, and its blob table entry (256 bytes, as on disk)."""

    content: bytes
    chunks: list[bytes]
    digests: list[bytes]
    offsets: list[int]  # of the chunks in the uncompressed blob
    entry: bytes
    meta_file: bytes
    chunk_size: int

    @property
    def uncompressed_size(self) -> int:
        return (self.offsets[-1] + len(self.chunks[-1]) + 4095) // 4096 * 4096

    def image(self) -> bytes:
        """The whole uncompressed blob, as the full data file has it."""
        image = bytearray(self.uncompressed_size)
        for offset, chunk in zip(self.offsets, self.chunks, strict=True):
            image[offset : offset + len(chunk)] = chunk
        return bytes(image)


def make_chunks(sizes: Iterable[int], seed: int = 1) -> list[bytes]:
    """Chunks of which some compress and some do not, no two alike."""
    rng = random.Random(seed)
    chunks = []
    for number, size in enumerate(sizes):
        noise = rng.randbytes(size if number % 3 == 2 else min(size, 24))
        chunks.append((noise * (size // len(noise) + 1))[:size])
    return chunks


def make_blob(
    chunks: list[bytes],
    *,
    codec: int = LZ4,
    digester: int = BLAKE3,
    v2: bool = False,
    toc: bool = True,
    digests: bool = True,
    ci_codec: int = NONE,
    chunk_size: int = 1 << 20,
    gap: int = 0,
    blob_id: str = BLOB_ID,
) -> FakeBlob:
    """Lay out a blob: plain framing, or with `toc` tar-like; `gap` bytes of rubbish after each chunk."""
    data = bytearray()
    records = bytearray()
    offsets: list[int] = []
    offset = 0
    for plain in chunks:
        stored = compress(codec, plain)
        flags = 1 if len(stored) != len(plain) else 0
        record = (offset, len(plain), len(data), len(stored))
        records += ci_record_v2(*record, flags=flags) if v2 else ci_record_v1(*record)
        data += stored + b"\xee" * gap
        offsets.append(offset)
        offset = (offset + len(plain) + 4095) // 4096 * 4096
    all_digests = [digest(digester, plain) for plain in chunks]
    features = 0x40000001 | (0x4 if v2 else 0) | (0x30000000 if toc else 0) | (0x20 if toc and digests else 0)
    ci_offset = len(data) + (512 if toc else 0)
    stored_ci = compress(ci_codec, bytes(records))
    real_ci_codec = ci_codec if len(stored_ci) < len(records) else NONE
    header = struct.pack(
        "<IIIIQQQQQI",
        0xB10BB10B,
        features,
        real_ci_codec,
        len(chunks),
        ci_offset,
        len(stored_ci),
        len(records),
        0,
        0,
        0,
    ).ljust(4092, b"\0") + struct.pack("<I", 0xB10BB10B)
    content = bytes(data)
    tail = b""
    if toc:
        section = stored_ci + header
        content += tar_header("image.blob", len(data)) + section + tar_header("blob.meta", len(section))
        entries = _toc_entry("image.blob", 1, bytes(data), 0, len(data), offset)
        flag = {NONE: 1, ZSTD: 2, LZ4: 4, GZIP: 1}[real_ci_codec]
        entries += _toc_entry("blob.meta", flag, bytes(records), ci_offset, len(stored_ci), len(records))
        entries += _toc_entry("blob.meta.header", 1, header, ci_offset + len(stored_ci), 4096, 4096)
        if digests:
            array = b"".join(all_digests)
            entries += _toc_entry("blob.digest", 1, array, len(content), len(array), len(array))
            content += array + tar_header("blob.digest", len(array))
        tail = entries + tar_header("rafs.blob.toc", len(entries))
        content += tail
    else:
        content += stored_ci + header
    entry = struct.pack(
        "<64sIIIIIIQQIIQQQ32s32sQQI36s",
        blob_id.encode(),
        0,
        chunk_size,
        len(chunks),
        codec,
        digester,
        features,
        len(content),
        offset,
        len(tail),
        real_ci_codec,
        ci_offset,
        len(stored_ci),
        len(records),
        hashlib.sha256(tail).digest() if tail else bytes(32),
        bytes(32),
        0,
        0,
        0,
        bytes(36),
    )
    assert len(entry) == 256
    padded = bytes(records).ljust((len(records) + 4095) // 4096 * 4096, b"\0")
    return FakeBlob(content, chunks, all_digests, offsets, entry, padded + header, chunk_size)


def _toc_entry(name: str, flag: int, plain: bytes, offset: int, stored: int, size: int) -> bytes:
    sha256 = hashlib.sha256(plain).digest()
    return struct.pack("<II16s32sQQQ48s", flag, 0, name.encode(), sha256, offset, stored, size, bytes(48))


@dataclass
class MemoryBackend:
    """Serves blobs from memory, and does what a test tells it to: hold, fail, or change the answers."""

    blobs: dict[str, bytes]
    reads: list[tuple[int, int]] = field(default_factory=list)  # (offset, length) of every read
    again: list[tuple[int, int]] = field(default_factory=list)  # those of them that distrust the last answer
    answer: Callable[[int, int, bytes], bytes] | None = None  # may raise
    gate: asyncio.Event | None = None  # reads wait for it
    waiting: int = 0
    max_waiting: int = 0

    async def blob_size(self, blob_id: str) -> int:
        return len(self.blobs[blob_id])

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        self.reads.append((offset, length))
        if again:
            self.again.append((offset, length))
        self.waiting += 1
        self.max_waiting = max(self.max_waiting, self.waiting)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.waiting -= 1
        data = self.blobs[blob_id][offset : offset + length]
        return self.answer(offset, length, data) if self.answer else data

    async def close(self) -> None:
        pass
