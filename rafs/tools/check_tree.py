"""The metadata of an image: each directory, inode and attribute, and where file data is said to lie.

Each inode is looked at once, each name once. What an image may claim is bounded by its size: entries, chunk
records and attributes do not share bytes, so where there are more of them than fit, they lie, and the check
ends there.
"""

from __future__ import annotations

import stat
from collections import Counter
from typing import NamedTuple

from native.dataplane import Inode
from rafs.errors import RafsError
from rafs.filesystem import Filesystem
from rafs.image import MAX_PATH
from rafs.tools.faults import Faults, reason

_TYPES = dict(
    enumerate(
        (
            stat.S_IFREG,
            stat.S_IFDIR,
            stat.S_IFCHR,
            stat.S_IFBLK,
            stat.S_IFIFO,
            stat.S_IFSOCK,
            stat.S_IFLNK,
        ),
        start=1,
    )
)
_DOTS = (b".", b"..")
#: in bytes: a dirent of v6 and a name; a chunk index of v6
_SMALLEST_ENTRY = 13
_SMALLEST_EXTENT = 8


class _Entry(NamedTuple):
    folder: bytes
    name: bytes
    nid: int
    parent: int
    file_type: int

    @property
    def path(self) -> bytes:
        return self.folder + self.name


class _TooMuch(Exception):
    """There is more than the image has room for."""


class TreeCheck:
    """Walks the tree; what it saw stays for the other checks.

    `users`: by blob, the first inode that has each chunk. `directories`: in walking order. `parents`: nid of
    a file to one directory that names it and that name, as a path costs memory that few will ask for.
    """

    def __init__(self, filesystem: Filesystem, faults: Faults, counts: Counter[str], *, data: bool) -> None:
        self._filesystem = filesystem
        self._image = filesystem.image
        self._faults = faults
        self._counts = counts
        self._with_blobs = data or self._image.version == 5
        self._broken_blobs: set[int] = set()
        self._names: Counter[int] = Counter()
        self._inodes: dict[int, tuple[int, int]] = {}  # nid -> (mode, nlink)
        self._entries_left = self._image.size // _SMALLEST_ENTRY
        self._extents_left = self._image.size // _SMALLEST_EXTENT
        self._xattr_bytes_left = self._image.size
        self.users: dict[int, dict[int, int]] = {}
        self.directories: list[int] = []
        self.first_names: dict[int, tuple[int, bytes]] = {}

    def run(self) -> None:
        """Check everything. Faults end up where they were told to."""
        pending = [_Entry(b"", b"/", self._image.root_nid, self._image.root_nid, 2)]
        try:
            while pending:
                pending += reversed(self._visit(pending.pop()))
        except _TooMuch as error:
            self._faults.add("bootstrap", None, b"", str(error))
        for nid, (mode, nlink) in self._inodes.items():
            if not stat.S_ISDIR(mode) and nlink != self._names[nid]:
                path = self.path_of(nid)
                self._faults.warn(f"{path!r} has {self._names[nid]} names, its link count is {nlink}")
        for nid in self._image.prefetch_nids():
            if nid not in self._inodes:
                what = f"the prefetch table has inode {nid}, which has no name"
                self._faults.add("bootstrap", None, b"", what)
        self._counts["inodes"] = len(self._inodes)
        self._counts["directories"] = len(self.directories)

    def path_of(self, nid: int) -> bytes:
        """Return a path of an inode that was seen."""
        parts: list[bytes] = []
        while nid in self.first_names and len(parts) < MAX_PATH:
            nid, name = self.first_names[nid]
            parts.append(name)
        return b"/" + b"/".join(reversed(parts))

    def _fault(self, entry: _Entry, what: str) -> None:
        self._faults.add_inode(self._image, entry.nid, entry.path, what)

    def _visit(self, entry: _Entry) -> list[_Entry]:
        """Check one name, and its inode if it is new; return what a directory holds."""
        self._counts["names"] += 1
        self._names[entry.nid] += 1
        known = self._inodes.get(entry.nid)
        if known is None:
            try:
                inode = self._image.inode(entry.nid)
            except OSError as error:
                self._fault(entry, reason(error))
                return []
            known = self._inodes[entry.nid] = (inode.mode, inode.nlink)
            if entry.nid != self._image.root_nid:
                self.first_names[entry.nid] = (entry.parent, entry.name)
            self._check_inode(entry, inode)
        elif stat.S_ISDIR(known[0]):
            self._fault(entry, "is a directory with another name too")
            return []
        if _TYPES.get(entry.file_type) != stat.S_IFMT(known[0]):
            self._fault(entry, f"has mode {known[0]:o}, its directory entry says type {entry.file_type}")
        return self._list(entry) if stat.S_ISDIR(known[0]) else []

    def _list(self, entry: _Entry) -> list[_Entry]:
        """Return the entries of a directory; check their order and its "." and ".."."""
        self.directories.append(entry.nid)
        found: list[_Entry] = []
        if len(entry.path) > MAX_PATH:
            self._fault(entry, f"has a path of over {MAX_PATH} bytes")
            return found
        folder = entry.path if entry.path == b"/" else entry.path + b"/"
        dots = {b".": entry.nid, b"..": entry.parent}
        before, subdirectories = b"", 0
        try:
            for child in self._image.readdir(entry.nid):
                self._take("entries", 1)
                is_dot = child.name in _DOTS
                if (self._image.version == 6 or not is_dot) and child.name <= before:
                    self._fault(entry, f"has entry {child.name!r} after {before!r}: no lookup finds it")
                before = child.name if self._image.version == 6 or not is_dot else before
                if is_dot:
                    if (expected := dots.pop(child.name, None)) != child.nid:
                        self._fault(entry, f"has {child.name!r} as inode {child.nid}, not {expected}")
                    continue
                subdirectories += child.file_type == 2
                found.append(_Entry(folder, child.name, child.nid, entry.nid, child.file_type))
        except OSError as error:
            self._fault(entry, f"as a directory {reason(error)}")
        for name in dots:
            self._fault(entry, f"has no {name!r}")
        nlink = self._inodes[entry.nid][1]
        if nlink != 2 + subdirectories:
            self._faults.warn(f"{entry.path!r} has {subdirectories} directories, its link count is {nlink}")
        return found

    def _take(self, what: str, count: int) -> None:
        left = getattr(self, f"_{what}_left") - count
        setattr(self, f"_{what}_left", left)
        if left < 0:
            raise _TooMuch(f"it claims more {what.replace('_', ' ')} than fit its {self._image.size} bytes")

    def _check_inode(self, entry: _Entry, inode: Inode) -> None:
        try:
            for name, value in self._image.xattrs(entry.nid).items():
                self._counts["xattrs"] += 1
                self._take("xattr_bytes", len(name) + len(value))
        except OSError as error:
            self._fault(entry, f"has attributes that cannot be: it {reason(error)}")
        try:
            if stat.S_ISLNK(inode.mode):
                self._check_target(entry, inode)
            elif stat.S_ISREG(inode.mode):
                self._counts["data_bytes"] += inode.size
                self._check_data(entry, inode)
        except OSError as error:
            self._fault(entry, f"has data that cannot be: it {reason(error)}")

    def _check_target(self, entry: _Entry, inode: Inode) -> None:
        if inode.size > 4096:
            self._fault(entry, f"is a symlink with a target of {inode.size} bytes")
        else:
            target = self._image.readlink(entry.nid)
            if not target or b"\0" in target:
                self._fault(entry, f"is a symlink to {target[:100]!r}")

    def _check_data(self, entry: _Entry, inode: Inode) -> None:
        for extent in self._image.extents(entry.nid, 0, inode.size):
            self._take("extents", 1)
            if extent.blob_index < 0:
                continue
            self._counts["file_chunks"] += 1
            self.users.setdefault(extent.blob_index, {}).setdefault(extent.chunk_index, entry.nid)
            if not self._with_blobs or extent.blob_index in self._broken_blobs:
                continue
            try:
                self._filesystem.check_extent(extent)
            except RafsError as error:
                if self._can_be_read(extent.blob_index):
                    self._fault(entry, f"at {extent.file_offset}: {error}")

    def _can_be_read(self, blob_index: int) -> bool:
        """Whether a blob's records are at hand; what is the matter with them is said once, by check_blobs."""
        try:
            for _ in self._filesystem.blob(blob_index).chunks():
                return True
        except RafsError:
            self._broken_blobs.add(blob_index)
            return False
        return True
