"""The framing of a data blob: tar headers that follow their section, and the table of contents at the tail.

Read side of the RAFS format specification, 1.3 and 1.4. Nothing here reads a file but `walk_sections` and
`end_of_blob`, which call what they are given; the rest takes bytes and returns values.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import zstandard

from native.rafs_v6 import RAFS_TOC_LZ4, RAFS_TOC_STORED, RAFS_TOC_ZSTD
from native.records import Record
from rafs.blob_record import TAR_HEADER_SIZE, TOC_SIZES
from rafs.errors import ImageCorrupt, ImageUnsupported

TOC_NAME = "rafs.blob.toc"
#: what is read from the tail when the blob table does not say how long the TOC is
TOC_PROBE_SIZE = 4096
#: A place that is larger than its blob, as a partition of a disk is: they are aligned to that at most.
MAX_PADDING = 1 << 20
_ENTRY = Record("rafs_toc_entry")
_FLAGS = 0xF
#: bound of a decompressed section; a bootstrap is the largest (9.1)
MAX_SECTION_SIZE = 2 << 30
_ZSTD_WINDOW_LIMIT = 1 << 27


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a tar-like blob: `size` bytes at `offset`."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TocEntry:
    """Where a section lies in the blob, how it is stored, and the SHA-256 of its plain content.

    `digest` is None where the builder left it out (all zero). For `image.blob` it covers the stored bytes;
    builders of the 2.2 era included the tar header behind them.
    """

    name: str
    codec: int
    digest: bytes | None
    offset: int
    stored_size: int
    uncompressed_size: int


@dataclass(frozen=True, slots=True)
class Toc:
    """A parsed table of contents. `is_authentic`: it was compared with the digest in the blob table."""

    entries: tuple[TocEntry, ...]
    is_authentic: bool

    def find(self, name: str) -> TocEntry | None:
        """Return the entry of that name, or None."""
        return next((entry for entry in self.entries if entry.name == name), None)


def parse_tar_header(header: bytes | memoryview, *, at: int) -> Section:
    """Parse the 512-byte tar header at blob offset `at`; it describes the section that ends there.

    Raises ImageCorrupt when it is not the GNU header of a regular file, its checksum is wrong, or the
    section would begin before the blob.
    """
    header = bytes(header)
    if (
        len(header) != TAR_HEADER_SIZE
        or header[257:265] != b"ustar  \0"
        or header[156:157] not in (b"0", b"\0")
    ):
        raise ImageCorrupt(f"no tar header at offset {at} of the blob")
    stored_sum = _number(header[148:156], at)
    if stored_sum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise ImageCorrupt(f"the tar header at offset {at} of the blob has a wrong checksum")
    size = _number(header[124:136], at)
    if size > at:
        raise ImageCorrupt(f"the tar header at offset {at} of the blob is of a section of {size} bytes")
    name = header[:100].rstrip(b"\0").decode("ascii", "backslashreplace")
    return Section(name, at - size, size)


def _number(field: bytes, at: int) -> int:
    """Octal digits; or, after a byte 0x80, a number too large for them as it is (GNU: from 8 GiB on)."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    if not re.fullmatch(rb"[0-7]+", digits):
        raise ImageCorrupt(f"the tar header at offset {at} of the blob has no octal number in {field!r}")
    return int(digits, 8)


def walk_sections(read: Callable[[int, int], bytes], blob_size: int) -> Iterator[Section]:
    """Yield the sections of a tar-like blob, last first. `read(offset, length)` gives its bytes.

    Raises ImageCorrupt where the chain of headers breaks.
    """
    at = blob_size - TAR_HEADER_SIZE
    while at >= 0:
        section = parse_tar_header(read(at, TAR_HEADER_SIZE), at=at)
        yield section
        at = section.offset - TAR_HEADER_SIZE


def end_of_blob(read: Callable[[int, int], bytes], size: int) -> int:
    """Where a blob ends that lies in a place of `size` bytes: behind its TOC, at most MAX_PADDING before.

    `size` where there is no TOC. `read(offset, length)` gives the bytes of the place.
    """
    start = max(0, size - MAX_PADDING - TAR_HEADER_SIZE)
    tail, name = read(start, size - start), TOC_NAME.encode() + b"\0"
    at = tail.rfind(name)
    while at >= 0:
        with suppress(ImageCorrupt):
            parse_tar_header(tail[at : at + TAR_HEADER_SIZE], at=start + at)
            return start + at + TAR_HEADER_SIZE
        at = tail.rfind(name, 0, at)
    return size


def toc_range(blob_size: int, toc_size: int) -> tuple[int, int]:
    """Return (offset, length) of the tail for `parse_toc`; `toc_size` is the blob table's, 0 unknown."""
    length = toc_size or min(TOC_PROBE_SIZE, blob_size - blob_size % 128)
    if not TAR_HEADER_SIZE <= length <= blob_size:
        raise ImageCorrupt(f"a blob of {blob_size} bytes has no room for a TOC of {length}")
    return blob_size - length, length


def parse_toc(tail: bytes, blob_size: int, *, toc_size: int, toc_digest: bytes | None) -> Toc:
    """Parse the bytes of `toc_range`: TOC entries and the tar header behind them.

    `toc_digest` is the SHA-256 of both, or of the entries alone (some merged images). Raises ImageCorrupt.
    """
    header_at = blob_size - TAR_HEADER_SIZE
    header = parse_tar_header(tail[-TAR_HEADER_SIZE:], at=header_at)
    if header.name != TOC_NAME:
        raise ImageCorrupt(f"the blob ends with section {header.name!r}, not with {TOC_NAME!r}")
    size = header.size + TAR_HEADER_SIZE
    if size not in TOC_SIZES or (toc_size and size != toc_size) or size > len(tail):
        raise ImageCorrupt(
            f"the TOC has {size} bytes with its header, the blob table says {toc_size or 'nothing'}"
        )
    toc = tail[-size:]
    entries = toc[:-TAR_HEADER_SIZE]
    if toc_digest and toc_digest not in (hashlib.sha256(toc).digest(), hashlib.sha256(entries).digest()):
        raise ImageCorrupt(f"the TOC's SHA-256 is not {toc_digest.hex()} as the blob table says")
    parsed = tuple(_parse_entry(entries, at, header_at) for at in range(0, len(entries), _ENTRY.size))
    return Toc(parsed, is_authentic=toc_digest is not None)


def _parse_entry(entries: bytes, at: int, end: int) -> TocEntry:
    raw = _ENTRY.parse(entries, at)
    name = raw.name.rstrip(b"\0").decode("ascii", "backslashreplace")
    if raw.flags not in (RAFS_TOC_STORED, RAFS_TOC_ZSTD, RAFS_TOC_LZ4):
        raise ImageCorrupt(f"TOC entry {name!r} has flags {raw.flags:#x}; exactly one codec must be set")
    # builders of the 2.2 era stored offset = size for the first section
    offset = 0 if name == "image.blob" else raw.offset
    if offset + raw.stored_size > end:
        raise ImageCorrupt(f"TOC entry {name!r} lies outside the blob")
    digest = raw.digest if any(raw.digest) else None
    return TocEntry(name, raw.flags & _FLAGS, digest, offset, raw.stored_size, raw.uncompressed_size)


def check_content(entry: TocEntry, plain: bytes | memoryview) -> None:
    """Raise ImageCorrupt unless `plain` is the content that `entry` describes."""
    if len(plain) != entry.uncompressed_size:
        raise ImageCorrupt(
            f"section {entry.name!r} has {len(plain)} bytes, its TOC entry says {entry.uncompressed_size}"
        )
    if entry.digest is not None and hashlib.sha256(plain).digest() != entry.digest:
        raise ImageCorrupt(
            f"section {entry.name!r} does not have the SHA-256 {entry.digest.hex()} of its TOC entry"
        )


def extract(entry: TocEntry, stored: bytes) -> bytes:
    """Return the plain content of a section from its stored bytes, checked against the entry."""
    plain = stored
    if entry.codec == RAFS_TOC_LZ4:
        raise ImageUnsupported(f"section {entry.name!r} is stored with lz4, which no builder writes")
    if entry.codec == RAFS_TOC_ZSTD:
        if entry.uncompressed_size > MAX_SECTION_SIZE:
            raise ImageCorrupt(f"section {entry.name!r} claims {entry.uncompressed_size} bytes")
        plain = _inflate(entry, stored)
    check_content(entry, plain)
    return plain


def _inflate(entry: TocEntry, stored: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_LIMIT)
    pieces, total = [], 0
    try:
        # piece by piece: the frame's own claim of its size allocates nothing
        for piece in decompressor.read_to_iter(stored):
            pieces.append(piece)
            total += len(piece)
            if total > entry.uncompressed_size:
                break
    except zstandard.ZstdError as error:
        raise ImageCorrupt(f"section {entry.name!r} is not a zstd stream: {error}") from None
    return b"".join(pieces)
