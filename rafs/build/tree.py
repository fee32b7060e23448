"""The tree to build, in memory: inodes and the names that lead to them. No IO here.

Rule: `Tree.inodes` is in tree order (format section 8.4): root first, then for each directory all
children by name, then their sub-directories in the same order. An inode with several names stands
where its first name stands. Numbering, layout and the order of chunks all follow this list.
"""

from __future__ import annotations

import stat
from array import array
from dataclasses import dataclass, field

#: What must not change between the scan and the last read: device, inode, size, mtime, ctime (ns).
Stamp = tuple[int, int, int, int, int]


@dataclass(slots=True, eq=False)
class Inode:
    """One file system object. `size`: bytes of a regular file's data, of a symlink's target, else 0."""

    path: bytes  # its first name in the source, for messages and for reading
    ino: int  # 1-based position in Tree.inodes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: int
    stamp: Stamp
    nlink: int = 1
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    parent: Inode | None = None  # directories only; None for the root
    children: list[tuple[bytes, Inode]] = field(default_factory=list)  # directories only, sorted by name
    chunks: array[int] = field(
        default_factory=lambda: array("I")
    )  # regular files: indexes in the chunk store

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)


@dataclass(slots=True)
class Tree:
    """`entry_count` counts names (hard links separately) and the root."""

    inodes: list[Inode]
    entry_count: int
    warnings: list[str]

    @property
    def root(self) -> Inode:
        return self.inodes[0]
