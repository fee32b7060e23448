"""The partitions of a GPT disk (UEFI specification 2.10, chapter 5.3). Pure: bytes come through a function.

The disk is not trusted: every number is checked before it is used, and both checksums. Where the primary
header or its table is damaged the backup at the end of the disk is taken, as the specification has it.
"""

from __future__ import annotations

import codecs
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

#: (offset, length) -> that many bytes of the disk, fewer at its end
Read = Callable[[int, int], bytes]

#: of the logical blocks that disks have
SECTOR_SIZES = (512, 4096)

#: looked up early: it is a module of its own, and a sandbox may load none later
_UTF_16 = codecs.lookup("utf-16-le")

_SIGNATURE = b"EFI PART"
_HEADER = struct.Struct("<8x4sII4xQ8xQQ16xQIII")
_ENTRY = struct.Struct("<16s16sQQ8x72s")
#: The usual table has 128 entries of 128 bytes; nothing larger than this was ever seen.
_MAX_TABLE_SIZE = 1 << 20


class GptError(ValueError):
    """The disk has no partition table that can be believed; the text says why."""


class Partition(NamedTuple):
    """A partition in use: `number` counts from 1, `offset` and `size` are bytes, and within the disk."""

    number: int
    type_guid: UUID
    guid: UUID
    name: str
    offset: int
    size: int


def parse_gpt(read: Read, disk_size: int) -> list[Partition]:
    """The partitions of a disk of `disk_size` bytes, in the order of its table. Raises GptError."""
    reason = "neither of its ends has the signature of a GPT"
    for sector_size in SECTOR_SIZES:
        last_lba = disk_size // sector_size - 1
        for lba in (1, last_lba):
            if lba < 1 or read(lba * sector_size, len(_SIGNATURE)) != _SIGNATURE:
                continue
            try:
                return _parse_at(read, lba, sector_size, last_lba)
            except GptError as error:
                reason = str(error)
    raise GptError(reason)


def _parse_at(read: Read, lba: int, sector_size: int, last_lba: int) -> list[Partition]:
    """What the header in block `lba` says."""
    raw = read(lba * sector_size, sector_size)
    if len(raw) < sector_size:
        raise GptError(f"the disk ends within the header in block {lba}")
    revision, header_size, checksum, my_lba, first, last, table_lba, count, entry_size, table_sum = (
        _HEADER.unpack_from(raw)
    )
    if revision != b"\0\0\1\0" or not _HEADER.size <= header_size <= sector_size:
        raise GptError(f"the header in block {lba} is of another revision or size than 1.0 has")
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:header_size]) != checksum:
        raise GptError(f"the header in block {lba} does not fit its checksum")
    if my_lba != lba:
        raise GptError(f"the header in block {lba} says that it is in block {my_lba}")
    if entry_size < _ENTRY.size or entry_size % 8 or count * entry_size > _MAX_TABLE_SIZE:
        raise GptError(f"a table of {count} entries of {entry_size} bytes is not one that we read")
    if table_lba > last_lba or not first <= last <= last_lba:
        raise GptError(f"the header in block {lba} names blocks beyond the end of the disk")
    table = read(table_lba * sector_size, count * entry_size)
    if len(table) != count * entry_size or zlib.crc32(table) != table_sum:
        raise GptError(f"the table in block {table_lba} does not fit its checksum")
    found = []
    for index in range(count):
        type_guid, guid, start, end, name = _ENTRY.unpack_from(table, index * entry_size)
        if type_guid == bytes(16):
            continue  # not in use
        if not first <= start <= end <= last:
            raise GptError(
                f"partition {index + 1} has the blocks {start} to {end}, outside {first} to {last}"
            )
        size = (end - start + 1) * sector_size
        found.append(
            Partition(
                index + 1,
                UUID(bytes_le=type_guid),
                UUID(bytes_le=guid),
                _UTF_16.decode(name, "replace")[0].split("\0", 1)[0],
                start * sector_size,
                size,
            )
        )
    return found
