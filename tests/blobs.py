"""A reader of RAFS v6 data blobs with tar-like framing that shares no code with ours.

RAFS format specification, sections 1.3, 1.4, 3.1 and 3.2. Every check is an assertion.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import blake3
import lz4.block
import zstandard

DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "blake3": lambda data: blake3.blake3(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


@dataclass
class ChunkRecord:
    """Where one chunk lies, in the stored and in the uncompressed blob, in bytes."""

    stored_offset: int
    stored_size: int
    offset: int
    size: int


@dataclass
class ParsedBlob:
    """The pieces of a blob file; `ci_header` holds the 11 numbers of format section 3.1."""

    content: bytes
    sections: dict[str, tuple[int, int]]  # name -> (offset, size), in file order
    toc: dict[str, tuple[int, bytes, int, int, int]]  # name -> (flags, digest, offset, stored, uncompressed)
    toc_region: bytes  # entries and their tar header
    ci_header: tuple[int, ...]
    chunks: list[ChunkRecord]
    digests: list[bytes]


def parse_blob(path: Path) -> ParsedBlob:
    """Walk the sections backwards from the end of the file, and decode each."""
    content = path.read_bytes()
    sections = _sections(content)
    offset, size = sections["rafs.blob.toc"]
    toc = {}
    for at in range(offset, offset + size, 128):
        flags, reserved, name, digest, start, stored, plain = struct.unpack_from("<II16s32sQQQ", content, at)
        assert reserved == 0 and content[at + 80 : at + 128] == bytes(48)
        toc[name.rstrip(b"\0").decode()] = (flags, digest, start, stored, plain)
    header_end = sum(sections["blob.meta"])
    header = content[header_end - 4096 : header_end]
    numbers = struct.unpack_from("<IIIIQQQQQI", header)
    assert header[60:4092] == bytes(4032)
    _, _, codec, count, ci_offset, ci_stored, ci_size = numbers[:7]
    ci = decode(codec, content[ci_offset : ci_offset + ci_stored], ci_size)
    assert len(ci) == 16 * count
    words = struct.unpack(f"<{2 * count}Q", ci)
    chunks = [
        ChunkRecord(
            stored_offset=second & 0xFF_FFFF_FFFF,
            stored_size=(second >> 44 | (second >> 40 & 0xF) << 20) + 1,
            offset=first & 0xFFF_FFFF_F000,
            size=(first >> 44 | (first >> 8 & 0xF) << 20) + 1,
        )
        for first, second in zip(words[::2], words[1::2], strict=True)
    ]
    offset, size = sections["blob.digest"]
    digests = [content[at : at + 32] for at in range(offset, offset + size, 32)]
    toc_offset, _ = sections["rafs.blob.toc"]
    return ParsedBlob(
        content,
        sections,
        toc,
        content[toc_offset:],
        (*numbers, *struct.unpack_from("<I", header, 4092)),
        chunks,
        digests,
    )


def _sections(content: bytes) -> dict[str, tuple[int, int]]:
    sections: dict[str, tuple[int, int]] = {}
    at = len(content) - 512
    while at >= 0:
        header = content[at : at + 512]
        assert header[257:265] == b"ustar  \0" and header[156:157] == b"0"
        blanked = header[:148] + b" " * 8 + header[156:]
        assert int(header[148:155], 8) == sum(blanked) and header[155] == 0
        size = int(header[124:135], 8)
        sections[header[:100].rstrip(b"\0").decode()] = (at - size, size)
        at -= size + 512
    assert at == -512  # the first section starts with the file
    return dict(reversed(sections.items()))


def decode(codec: int, stored: bytes, size: int) -> bytes:
    """Return exactly `size` plain bytes of a stored piece; `codec` as on disk."""
    if len(stored) == size:
        return stored
    if codec == 1:
        plain: bytes = lz4.block.decompress(stored, uncompressed_size=size)
    else:
        assert codec == 3
        plain = zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)
    assert len(plain) == size
    return plain


def plain_chunk(blob: ParsedBlob, index: int, codec: int) -> bytes:
    chunk = blob.chunks[index]
    stored = blob.content[chunk.stored_offset : chunk.stored_offset + chunk.stored_size]
    return decode(codec, stored, chunk.size)


def fill_device(path: Path, codec: int, target: Path) -> None:
    """Write the uncompressed blob, as a full chunk cache holds it and the kernel takes it for a device."""
    blob = parse_blob(path)
    with target.open("wb") as file:
        for index, chunk in enumerate(blob.chunks):
            file.seek(chunk.offset)
            file.write(plain_chunk(blob, index, codec))
        file.truncate(-(-file.tell() // 4096) * 4096)
