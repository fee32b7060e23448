"""Lists and tables of the chunks of v5 blobs: native/c/chunk_table.h.

A record is a `struct rafs_chunk_record`. A list has those that one image knows, a table a place for each
chunk.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from mmap import mmap
from typing import Any, NamedTuple

from native._dataplane import ffi, lib
from native.records import Record

CHUNK_TABLE_MAGIC: int = lib.VFS_CHUNK_TABLE_MAGIC
RECORD = Record("rafs_chunk_record")
_RECORDS = "struct rafs_chunk_record[]"


class Bounds(NamedTuple):
    """What is known of a blob as a whole; `compressed_size` is where its chunk data ends."""

    chunk_count: int
    chunk_size: int
    compressed_size: int
    uncompressed_size: int


class Contradiction(Exception):
    """Two sources say different things of chunk `chunk_idx`, or one says what cannot be."""

    def __init__(self, chunk_idx: int, *, is_old_known: bool) -> None:
        super().__init__(f"chunk {chunk_idx}")
        self.chunk_idx = chunk_idx
        self.is_old_known = is_old_known


def _c_bounds(bounds: Bounds) -> Any:
    return ffi.new("struct vfs_chunk_bounds *", tuple(bounds))


def check_list(records: bytes, bounds: Bounds) -> None:
    """Raise Contradiction for the first record that cannot be."""
    fault = ffi.new("uint32_t *")
    count = len(records) // RECORD.size
    if lib.vfs_chunk_list_check(ffi.from_buffer(_RECORDS, records), count, _c_bounds(bounds), fault):
        raise Contradiction(fault[0], is_old_known=False)


def check_table(table: bytes | mmap, bounds: Bounds) -> None:
    """Raise Contradiction for the first record that cannot be."""
    if len(table) < bounds.chunk_count * RECORD.size:
        raise ValueError(f"{len(table)} bytes for {bounds.chunk_count} records")
    fault = ffi.new("uint32_t *")
    if lib.vfs_chunk_table_check(ffi.from_buffer(_RECORDS, table), _c_bounds(bounds), fault):
        raise Contradiction(fault[0], is_old_known=False)


def merge(table: bytearray | mmap, records: bytes, bounds: Bounds) -> int:
    """Add to a checked table what a list knows and it does not.

    Returns the bitmap of what was added, in the order of a chunk map: the first chunk is the highest bit of
    the first of ceil(chunk_count / 8) bytes. Raises Contradiction; the table is then as it was.
    """
    check_list(records, bounds)
    if len(table) < bounds.chunk_count * RECORD.size:
        raise ValueError(f"{len(table)} bytes for {bounds.chunk_count} records")
    added, fault = bytearray((bounds.chunk_count + 7) // 8), ffi.new("uint32_t *")
    result = lib.vfs_chunk_table_merge(
        ffi.from_buffer(_RECORDS, table),
        ffi.from_buffer(_RECORDS, records),
        len(records) // RECORD.size,
        _c_bounds(bounds),
        ffi.from_buffer("uint8_t[]", added),
        fault,
    )
    if result:
        raise Contradiction(fault[0], is_old_known=result == -errno.EEXIST)
    return int.from_bytes(added)


def parse_list(records: bytes) -> Iterator[Any]:
    """Yield the parsed records of a list."""
    for at in range(0, len(records), RECORD.size):
        yield RECORD.parse(records, at)
