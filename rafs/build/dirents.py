"""The data of a directory: blocks of dirents and names (format section 2.9). Pure functions.

Entries are sorted by name over the whole directory, `.` and `..` at their place among them.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

from native.records import Record
from rafs.build.chunks import ALIGNMENT as BLOCK

#: (name, nid, st_mode)
Entry = tuple[bytes, int, int]

_DIRENT = Record("erofs_dirent")
_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


def _blocks(names: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
    """Cut sorted names into blocks: (first, end, bytes used)."""
    first = used = 0
    for position, name in enumerate(names):
        size = _DIRENT.size + len(name)
        if used + size > BLOCK:
            yield first, position, used
            first, used = position, 0
        used += size
    yield first, len(names), used


def directory_size(names: Sequence[bytes]) -> int:
    """Return i_size of a directory with the sorted `names`, `.` and `..` among them."""
    *full, (_, _, used) = _blocks(names)
    return len(full) * BLOCK + used


def pack_directory(entries: Sequence[Entry]) -> bytes:
    """Return directory_size() bytes for the sorted `entries`."""
    data = bytearray()
    names = [name for name, _, _ in entries]
    for first, end, used in _blocks(names):
        data += bytes(-len(data) % BLOCK)
        block_start = len(data)
        nameoff = (end - first) * _DIRENT.size
        for name, nid, mode in entries[first:end]:
            data += _DIRENT.pack(nid=nid, nameoff=nameoff, file_type=_TYPES[stat.S_IFMT(mode)])
            nameoff += len(name)
        data += b"".join(names[first:end])
        assert len(data) - block_start == used
    return bytes(data)
