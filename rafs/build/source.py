"""A directory as the source of an image: scanning it into a Tree, and reading its files.

Names are bytes throughout, since they need not be UTF-8. Everything found in the tree is kept as
it is, the root's own attributes and whiteout markers included; nothing is followed. Hard links are kept
for every type but directories; a link count is the number of names inside the tree.

Extended attributes outside the prefixes that RAFS can store are left out, with one warning a name.

The source must stand still while it is read. Each file is compared with its scan when it is opened and
again after its last read, so that a change is an error and never a torn file.
"""

# ruff: noqa: PTH115, PTH116, PTH208 (a pathlib.Path cannot hold bytes)
from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from types import TracebackType

from rafs.build.errors import BuildError
from rafs.build.tree import Inode, Stamp, Tree
from rafs.build.xattrs import LeftOut


def _refusal(path: bytes, error: OSError) -> BuildError:
    shown = os.fsdecode(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP):
        return BuildError(f"{shown!r} vanished or was replaced during the build; build from a tree at rest")
    if error.errno in (errno.EACCES, errno.EPERM):
        return BuildError(f"{shown!r} cannot be read: {error.strerror}; run as its owner or as root")
    return BuildError(f"{shown!r} cannot be read: {error.strerror}")


def _stamp(st: os.stat_result) -> Stamp:
    return (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def _read_xattrs(path: bytes, left_out: LeftOut) -> dict[bytes, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found = {}
    for name in names:
        raw_name = os.fsencode(name)
        if not left_out.admits(raw_name, b"", path):
            continue
        value = os.getxattr(path, name, follow_symlinks=False)
        if left_out.admits(raw_name, value, path):
            found[raw_name] = value
    return found


def scan_directory(source: bytes, on_entry: Callable[[int], None] = lambda count: None) -> Tree:
    """Return the Tree under directory `source`. `on_entry` gets the number of entries after each directory.

    Raises BuildError, naming the file, when something vanishes or cannot be read.
    """
    left_out = LeftOut()
    inodes: list[Inode] = []
    linked: dict[tuple[int, int], Inode] = {}

    def add(path: bytes, st: os.stat_result) -> Inode:
        is_link = stat.S_ISLNK(st.st_mode)
        target = os.readlink(path) if is_link else b""
        inode = Inode(
            path=path,
            ino=len(inodes) + 1,
            mode=st.st_mode,
            uid=st.st_uid,
            gid=st.st_gid,
            size=len(target) if is_link else st.st_size if stat.S_ISREG(st.st_mode) else 0,
            mtime_ns=st.st_mtime_ns,
            rdev=st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else 0,
            stamp=_stamp(st),
            target=target,
            xattrs=_read_xattrs(path, left_out),
        )
        inodes.append(inode)
        return inode

    def add_name(directory: Inode, name: bytes) -> None:
        path = directory.path.rstrip(b"/") + b"/" + name
        try:
            st = os.lstat(path)
            identity = (st.st_dev, st.st_ino)
            known = linked.get(identity) if st.st_nlink > 1 else None
            if known is not None:
                known.nlink += 1
                directory.children.append((name, known))
                return
            inode = add(path, st)
        except OSError as error:
            raise _refusal(path, error) from error
        directory.children.append((name, inode))
        if inode.is_dir:
            inode.parent = directory
            inode.nlink = 2
            directory.nlink += 1
        elif st.st_nlink > 1:
            linked[identity] = inode

    try:
        root_stat = os.stat(source)
        if not stat.S_ISDIR(root_stat.st_mode):
            raise BuildError(f"{os.fsdecode(source)!r} is not a directory")
        root = add(source, root_stat)
    except FileNotFoundError:
        raise BuildError(f"{os.fsdecode(source)!r} does not exist") from None
    except OSError as error:
        raise _refusal(source, error) from error
    root.nlink = 2
    entry_count = 1
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            names = sorted(os.listdir(directory.path))
        except OSError as error:
            raise _refusal(directory.path, error) from error
        for name in names:
            add_name(directory, name)
        entry_count += len(names)
        on_entry(entry_count)
        waiting.extend(child for _, child in reversed(directory.children) if child.is_dir)
    return Tree(inodes, entry_count, left_out.warnings())


class SourceFile:
    """A regular file of the tree, open for reading: `with SourceFile(inode) as file`.

    Raises BuildError on entry or exit when the file is not the one that was scanned any more.
    """

    def __init__(self, inode: Inode) -> None:
        self._inode = inode
        self._fd = -1
        self.is_sparse = False  # whether some of it may be holes

    def __enter__(self) -> SourceFile:
        try:
            # O_NONBLOCK: if a fifo took the file's place, open must not wait for a writer
            self._fd = os.open(self._inode.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _refusal(self._inode.path, error) from error
        try:
            st = self._check()
        except BaseException:
            os.close(self._fd)
            raise
        self.is_sparse = st.st_blocks * 512 < st.st_size
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._check()
        finally:
            os.close(self._fd)

    def _changed(self) -> BuildError:
        shown = os.fsdecode(self._inode.path)
        return BuildError(f"{shown!r} changed during the build; build from a tree at rest")

    def _check(self) -> os.stat_result:
        st = os.fstat(self._fd)
        if _stamp(st) != self._inode.stamp:
            raise self._changed()
        return st

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes at `offset`."""
        try:
            data = os.pread(self._fd, size, offset)
            if len(data) == size:
                return data
            parts = [data]
            missing = size - len(data)
            while missing:
                data = os.pread(self._fd, missing, offset + size - missing)
                if not data:
                    raise self._changed()
                parts.append(data)
                missing -= len(data)
            return b"".join(parts)
        except OSError as error:
            raise _refusal(self._inode.path, error) from error

    def is_hole(self, offset: int, size: int) -> bool:
        """Whether the range is known, without reading it, to hold only zeros."""
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA) >= offset + size
        except OSError as error:
            return error.errno == errno.ENXIO  # a hole up to the end of the file
