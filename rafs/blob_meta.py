"""What a blob says about its chunks: the compression-information (CI) header and records.

RAFS format specification, 3.1 to 3.3, 6.2 and the notes in 9.3. The cache file `<id>.blob.meta` (6.2) is the
form in which C and Python share it: CI data zero padded to 4096, then the header. `BlobMeta` decodes records
out of that file when they are asked for, so 2^24 chunks cost no memory here, and a file that shrinks under us
is an error and not a SIGBUS.

Every record that leaves this module was checked: sizes, ends, and that its slot in the uncompressed blob does
not reach into its neighbours'.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from native.rafs_v6 import (
    RAFS_CI_MAGIC,
    RAFS_CI_V2_BATCH,
    RAFS_CI_V2_COMPRESSED,
    RAFS_CI_V2_ENCRYPTED,
    RAFS_CI_V2_HAS_CRC32C,
    RAFS_CI_V2_ZRAN,
)
from native.records import Record
from rafs.blob_record import CI_HEADER_SIZE, CI_V2_SIZE, SLOT, BlobRecord, Feature
from rafs.codes import Compressor
from rafs.errors import BlobCorrupt, CacheError, ImageCorrupt, ImageUnsupported

_HEADER = Record("rafs_ci_header")
_V1 = struct.Struct("<QQ")
_V2 = struct.Struct("<QQQ")
_UNREADABLE = RAFS_CI_V2_ZRAN | RAFS_CI_V2_BATCH | RAFS_CI_V2_ENCRYPTED


class Chunk(NamedTuple):
    """One CI record, in bytes; `uncompressed_` offset and size are in the plain blob (the data file)."""

    chunk_idx: int
    uncompressed_offset: int
    uncompressed_size: int
    compressed_offset: int
    compressed_size: int
    is_compressed: bool
    crc32c: int | None = None

    @property
    def compressed_end(self) -> int:
        return self.compressed_offset + self.compressed_size

    @property
    def slot_end(self) -> int:
        """Where the next chunk's slot may begin."""
        return (self.uncompressed_offset + self.uncompressed_size + SLOT - 1) & -SLOT


def parse_record_v1(index: int, word0: int, word1: int) -> Chunk:
    """Decode a 16-byte record (3.2)."""
    uncompressed_size = ((word0 >> 44) | (word0 >> 8 & 0xF) << 20) + 1
    compressed_size = ((word1 >> 44) | (word1 >> 40 & 0xF) << 20) + 1
    return Chunk(
        index,
        word0 & 0xFFF_FFFF_F000,
        uncompressed_size,
        word1 & 0xFF_FFFF_FFFF,
        compressed_size,
        compressed_size != uncompressed_size,
    )


def parse_record_v2(index: int, word0: int, word1: int, word2: int) -> Chunk:
    """Decode a 24-byte record (3.3). Raises ImageUnsupported for zran, batched and encrypted chunks."""
    flags = word0 >> 56
    if flags & _UNREADABLE:
        raise ImageUnsupported(f"chunk {index} is a zran, batched or encrypted one (flags {flags:#x})")
    return Chunk(
        index,
        (word0 & 0xFFFF_FFFF) << 12,
        (word0 >> 32 & 0xFF_FFFF) + 1,
        word1 & 0xFF_FFFF_FFFF,
        word1 >> 40,
        bool(flags & RAFS_CI_V2_COMPRESSED),
        word2 & 0xFFFF_FFFF if flags & RAFS_CI_V2_HAS_CRC32C else None,
    )


def check_header(header: bytes, record: BlobRecord) -> None:
    """Raise ImageCorrupt unless the 4096-byte CI header fits the blob table's entry (3.1)."""
    raw: Any = _HEADER.parse(header)
    found = {
        "magic": (raw.magic, raw.magic2),
        "record count": raw.entries,
        "compressor": raw.compressor,
        "offset": raw.offset,
        "stored size": raw.compressed_size,
        "uncompressed size": raw.uncompressed_size,
        # which record format; the other feature bits legally differ from the table's
        "record format": bool(raw.features & Feature.CHUNK_INFO_V2),
    }
    expected = {
        "magic": (RAFS_CI_MAGIC, RAFS_CI_MAGIC),
        "record count": record.chunk_count,
        "compressor": record.ci_compressor,
        "offset": record.ci_offset,
        "stored size": record.ci_compressed_size,
        "uncompressed size": record.ci_uncompressed_size,
        "record format": Feature.CHUNK_INFO_V2 in record.features,
    }
    for what, value in expected.items():
        if found[what] != value:
            raise ImageCorrupt(
                f"blob {record.blob_id}: blob.meta header has {what} {found[what]}, not {value}"
            )


def meta_file_size(record: BlobRecord) -> int:
    """Size of `<id>.blob.meta` (6.2)."""
    return _padded(record.ci_uncompressed_size) + CI_HEADER_SIZE


def unpack_section(record: BlobRecord, section: bytes) -> tuple[bytes, bytes]:
    """Split the blob's CI section (stored CI data, then header) into (plain CI data, header).

    Raises ImageCorrupt when the header does not fit `record` or the data does not decode.
    """
    stored, header = section[: record.ci_compressed_size], section[record.ci_compressed_size :]
    check_header(header, record)
    try:
        if (
            record.ci_compressor is not Compressor.NONE
            and record.ci_compressed_size == record.ci_uncompressed_size
        ):
            raise BlobCorrupt("compressed data that is not smaller than plain")
        from rafs.codec import decode_chunk  # heavy, and only for who fetches

        plain = decode_chunk(stored, compressor=record.ci_compressor, size=record.ci_uncompressed_size)
    except BlobCorrupt as error:
        raise ImageCorrupt(f"blob {record.blob_id}: blob.meta: {error}") from None
    return bytes(plain), header


def pack_meta_file(plain: bytes, header: bytes) -> bytes:
    """Return the content of `<id>.blob.meta` (6.2)."""
    return plain.ljust(_padded(len(plain)), b"\0") + header


def _padded(size: int) -> int:
    return (size + SLOT - 1) & -SLOT


@dataclass(frozen=True)
class BlobMeta:
    """The chunks of one blob, decoded on demand. `read(offset, length)` reads the blob.meta file.

    Raises ImageCorrupt for a record that is not valid and ImageUnsupported for one we cannot read, for as
    long as that one is asked for: a bad record does not spoil the others.
    """

    record: BlobRecord
    read: Callable[[int, int], bytes]

    def __len__(self) -> int:
        return self.record.chunk_count

    @cached_property
    def _record_size(self) -> int:
        return self.record.ci_record_size

    @cached_property
    def _data_end(self) -> int:
        return self.record.chunk_data_end

    def chunk(self, index: int) -> Chunk:
        """Return one checked record. Raises ImageCorrupt for an index out of range too (9.3.3)."""
        return next(self.chunks(index, 1))

    def chunks(self, first: int, count: int) -> Iterator[Chunk]:
        """Yield the checked records of [first, first + count)."""
        if first < 0 or count < 0 or first + count > len(self):
            raise ImageCorrupt(f"chunks {first}..{first + count - 1} of a blob of {len(self)} chunks")
        # one more on each side, to check that slots do not overlap
        start, end = max(first - 1, 0), min(first + count + 1, len(self))
        size = self._record_size
        data = self.read(start * size, (end - start) * size)
        if len(data) != (end - start) * size:
            raise CacheError(f"blob {self.record.blob_id}: its blob.meta file was cut; remove it and restart")
        before: Chunk | None = None
        if start < first:
            before = self._parse(data, 0, start)
        for index in range(first, first + count):
            chunk = self._parse(data, (index - start) * size, index)
            self._check(chunk)
            if before is not None and before.slot_end > chunk.uncompressed_offset:
                raise self._corrupt(chunk, f"begins inside chunk {before.chunk_idx}")
            if index + 1 < end and self._offset_of(data, (index + 1 - start) * size) < chunk.slot_end:
                raise self._corrupt(chunk, f"reaches into chunk {index + 1}")
            yield chunk
            before = chunk

    def described(self, first: int, count: int) -> list[tuple[int, int]]:
        """Runs of those chunks of a range that have a record: in v6, all of them."""
        return [(first, count)]

    def check_all(self) -> None:
        """Check every record; raises at the first bad one. About a microsecond a chunk, so for a thread."""
        size = self._record_size
        for first in range(0, len(self), _CHECK_STEP):
            count = min(_CHECK_STEP, len(self) - first)
            data = self.read(first * size, count * size)
            if len(data) != count * size or not self._are_plainly_good(data):
                for _ in self.chunks(first, count):  # says which one it is
                    pass
            elif first:
                self.chunk(first)  # against the last one of the step before

    def _are_plainly_good(self, data: bytes) -> bool:
        """What `_check` and the order of slots ask, for many records at once: no objects are made."""
        is_v2 = self._record_size == CI_V2_SIZE
        chunk_size, blob_size, data_end = (
            self.record.chunk_size,
            self.record.uncompressed_size,
            self._data_end,
        )
        end = 0
        for first, second, *_ in (_V2 if is_v2 else _V1).iter_unpack(data):
            if is_v2:
                offset, size = (first & 0xFFFF_FFFF) << 12, (first >> 32 & 0xFF_FFFF) + 1
                stored, flags = second >> 40, first >> 56
                if (
                    flags & _UNREADABLE
                    or not stored
                    or (stored != size and not flags & RAFS_CI_V2_COMPRESSED)
                ):
                    return False
            else:
                offset, size = first & 0xFFF_FFFF_F000, ((first >> 44) | (first >> 8 & 0xF) << 20) + 1
                stored = ((second >> 44) | (second >> 40 & 0xF) << 20) + 1
            if offset < end or size > chunk_size or offset + size > blob_size:
                return False
            if (second & 0xFF_FFFF_FFFF) + stored > data_end:
                return False
            end = (offset + size + SLOT - 1) & -SLOT
        return True

    def _parse(self, data: bytes, at: int, index: int) -> Chunk:
        if self._record_size == CI_V2_SIZE:
            return parse_record_v2(index, *_V2.unpack_from(data, at))
        return parse_record_v1(index, *_V1.unpack_from(data, at))

    def _offset_of(self, data: bytes, at: int) -> int:
        word = int.from_bytes(data[at : at + 8], "little")
        if self._record_size == CI_V2_SIZE:
            return (word & 0xFFFF_FFFF) << 12
        return word & 0xFFF_FFFF_F000

    def _check(self, chunk: Chunk) -> None:
        record = self.record
        if chunk.uncompressed_size > record.chunk_size:
            raise self._corrupt(
                chunk, f"has {chunk.uncompressed_size} bytes, over the chunk size {record.chunk_size}"
            )
        if chunk.uncompressed_offset + chunk.uncompressed_size > record.uncompressed_size:
            raise self._corrupt(chunk, f"ends after the blob's uncompressed size {record.uncompressed_size}")
        if chunk.compressed_size == 0 or chunk.compressed_end > self._data_end:
            raise self._corrupt(chunk, f"is stored outside of the chunk data, which ends at {self._data_end}")
        if not chunk.is_compressed and chunk.compressed_size != chunk.uncompressed_size:
            raise self._corrupt(chunk, "is stored plain in another size than its own")

    def _corrupt(self, chunk: Chunk, reason: str) -> ImageCorrupt:
        return ImageCorrupt(f"blob {self.record.blob_id}: chunk {chunk.chunk_idx} {reason}")


_CHECK_STEP = 16384
