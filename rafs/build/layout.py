"""Where metadata lies in the bootstrap: a plan, made before any byte is written.

Offsets here count from the start of the metadata area (nid 0); its first 4096 bytes stay free, so the root
is nid 128. Two promises to readers, the kernel among them: an inode starts on a 32-byte boundary, and an
inode with what follows it never crosses a 4096-byte boundary unless it is larger than that. A block that
an inode does not fit in keeps its remainder for later, smaller ones (format section 2.10).
"""

from __future__ import annotations

import stat
from collections import deque
from dataclasses import dataclass

from native.rafs_v6 import (
    EROFS_LAYOUT_CHUNK_BASED,
    EROFS_LAYOUT_FLAT_INLINE,
    EROFS_LAYOUT_FLAT_PLAIN,
    EROFS_SLOT_SIZE,
)
from native.records import Record
from rafs.build.chunks import ALIGNMENT as BLOCK
from rafs.build.dirents import directory_size
from rafs.build.tree import Inode, Tree
from rafs.build.xattrs import pack_xattrs

INODE_SIZE = Record("erofs_inode_extended").size
CHUNK_INDEX_SIZE = Record("erofs_chunk_index").size
_SLOTS = BLOCK // EROFS_SLOT_SIZE


class MetadataAllocator:
    """Hands out ranges: a cursor, and the remainders of blocks that it left, first in first out by size."""

    def __init__(self, start: int) -> None:
        self.end = start
        self._remainders: list[deque[int]] = [deque() for _ in range(_SLOTS)]
        self._sizes_at_hand = 0  # bit n: a remainder of n slots waits

    def _keep_remainder(self, offset: int, slots: int) -> None:
        if slots:
            self._remainders[slots].append(offset)
            self._sizes_at_hand |= 1 << slots

    def _close_block(self) -> None:
        room = -self.end % BLOCK
        self._keep_remainder(self.end, room // EROFS_SLOT_SIZE)
        self.end += room

    def take(self, size: int) -> int:
        """Return the offset of `size` bytes for an inode and what must stay with it."""
        slots = -(-size // EROFS_SLOT_SIZE)
        if slots < _SLOTS and (fitting := self._sizes_at_hand >> slots << slots):
            found = (fitting & -fitting).bit_length() - 1
            offset = self._remainders[found].popleft()
            if not self._remainders[found]:
                self._sizes_at_hand &= ~(1 << found)
            self._keep_remainder(offset + slots * EROFS_SLOT_SIZE, found - slots)
            return offset
        room = -self.end % BLOCK
        if room and min(size, BLOCK) > room:
            self._close_block()
        offset = self.end
        self.end += slots * EROFS_SLOT_SIZE
        return offset

    def take_blocks(self, count: int) -> int:
        """Return the offset of `count` whole blocks."""
        self._close_block()
        offset = self.end
        self.end += count * BLOCK
        return offset


@dataclass(frozen=True, slots=True)
class Placement:
    """`offset` of an inode, and `data` of its whole blocks; None if all data is inline or there is none."""

    offset: int
    layout: int
    size: int
    xattr_size: int
    data: int | None

    @property
    def nid(self) -> int:
        return self.offset // EROFS_SLOT_SIZE


def chunk_indexes_at(xattr_size: int) -> int:
    """Offset of the chunk index array from its inode: the next multiple of 8."""
    return (INODE_SIZE + xattr_size + 7) & -8


def sorted_names(directory: Inode) -> list[bytes]:
    return sorted([b".", b"..", *(name for name, _ in directory.children)])


def place(tree: Tree) -> tuple[list[Placement], int]:
    """Return a placement for each of `tree.inodes`, and the end of the area. Chunks must be known by then."""
    allocator = MetadataAllocator(BLOCK)
    placements = [_place_inode(inode, allocator) for inode in tree.inodes]
    return placements, allocator.end


def _place_inode(inode: Inode, allocator: MetadataAllocator) -> Placement:
    xattr_size = len(pack_xattrs(inode.xattrs, inode.path))
    head = INODE_SIZE + xattr_size
    if inode.is_regular:
        indexes_end = chunk_indexes_at(xattr_size) + len(inode.chunks) * CHUNK_INDEX_SIZE
        return Placement(allocator.take(indexes_end), EROFS_LAYOUT_CHUNK_BASED, inode.size, xattr_size, None)
    if inode.is_dir:
        size = directory_size(sorted_names(inode))
    elif stat.S_ISLNK(inode.mode):
        size = inode.size
    else:
        return Placement(allocator.take(head), EROFS_LAYOUT_FLAT_PLAIN, 0, xattr_size, None)
    full_blocks, tail = divmod(size, BLOCK)
    if tail and head + tail <= BLOCK:
        offset = allocator.take(head + tail)
        data = allocator.take_blocks(full_blocks) if full_blocks else None
        return Placement(offset, EROFS_LAYOUT_FLAT_INLINE, size, xattr_size, data)
    offset = allocator.take(head)
    data = allocator.take_blocks(full_blocks + (1 if tail else 0))
    return Placement(offset, EROFS_LAYOUT_FLAT_PLAIN, size, xattr_size, data)
