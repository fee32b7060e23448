"""An image as a directory: the same tree, with all that the file system can keep.

The image is not trusted. Every name is made below a descriptor of its own directory, nothing is followed and
nothing that exists is touched, so whatever names and links an image has, it stays inside `target`.

Owners need root, devices too; `security.` and `trusted.` attributes mostly. What cannot be kept is said once
a kind, in `UnpackResult.warnings`, and the rest goes on. Raises OSError, RafsError.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from native.dataplane import Inode
from rafs.filesystem import Filesystem
from rafs.image import MAX_PATH, WholeImage
from rafs.tools.window import Window

_DOTS = (b".", b"..")
_CANNOT_KEEP = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EINVAL,
    errno.ERANGE,
    errno.E2BIG,
    errno.EOVERFLOW,
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: paths up to that go to the kernel as they are
_SHORT_PATH = 4000


@dataclass
class UnpackResult:
    """What was made; `warnings` say what could not be kept."""

    names: int = 0
    data_size: int = 0
    warnings: list[str] = field(default_factory=list)


def unpack_directory(
    filesystem: Filesystem,
    target: Path,
    *,
    jobs: int | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> UnpackResult:
    """Make the tree in `target`, which must be empty or not there. `progress` hears of bytes of data."""
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(errno.ENOTEMPTY, "is not empty; name a new directory", str(target))
    threads = jobs or len(os.sched_getaffinity(0))
    root = os.open(target, _DIRECTORY)
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="unpack") as pool:
            unpacker = _Unpacker(filesystem, root, Window(pool, 4 * threads), progress)
            unpacker.run()
        return unpacker.result
    finally:
        os.close(root)


@dataclass
class _Folder:
    """A directory that is being filled."""

    nid: int
    path: bytes
    left: Iterator[tuple[bytes, int]]


class _Unpacker:
    def __init__(
        self, filesystem: Filesystem, root: int, files: Window, progress: Callable[[int], None]
    ) -> None:
        self._filesystem = filesystem
        self._image = filesystem.image
        self._root = root
        self._files = files
        self._progress = progress
        self._first_paths: dict[int, bytes] = {}
        self._directories = {self._image.root_nid}
        self._whole = WholeImage(self._image)
        self._entries_left = self._image.size // 13  # no image has more
        self._warned: set[str] = set()
        self.result = UnpackResult()

    def run(self) -> None:
        image, fd = self._image, os.dup(self._root)
        folders = [_Folder(image.root_nid, b"", self._children(image.root_nid))]
        try:
            while folders:
                folder = folders[-1]
                child = next(folder.left, None)
                if child is None:
                    self._finish(fd, image.inode(folder.nid), folder.nid, folder.path)
                    folders.pop()
                    if folders:
                        fd = _move(fd, b"..")
                    continue
                name, nid = child
                path = folder.path + b"/" + name
                if self._make(fd, name, nid, path):
                    fd = _move(fd, name)
                    folders.append(_Folder(nid, path, self._children(nid)))
            self._files.finish()
        finally:
            self._files.drain()
            os.close(fd)

    def _children(self, nid: int) -> Iterator[tuple[bytes, int]]:
        for entry in self._image.readdir(nid):
            if entry.name not in _DOTS:
                self._entries_left -= 1
                if self._entries_left < 0:
                    raise OSError(errno.EUCLEAN, "directories have entries of others too")
                yield entry.name, entry.nid

    def _make(self, fd: int, name: bytes, nid: int, path: bytes) -> bool:
        """Make one name; True: it is a directory, which is to be filled."""
        self.result.names += 1
        inode = self._image.inode(nid)
        if len(path) > MAX_PATH:
            raise OSError(
                errno.ENAMETOOLONG, "the image has a path that is too long", os.fsdecode(path[:100])
            )
        if stat.S_ISDIR(inode.mode):
            if nid in self._directories:
                raise OSError(errno.EUCLEAN, "is a directory with another name too", os.fsdecode(path))
            self._directories.add(nid)
            os.mkdir(name, 0o700, dir_fd=fd)
            return True
        if nid in self._first_paths:
            self._link(fd, name, self._first_paths[nid])
            return False
        if inode.nlink > 1:
            self._first_paths[nid] = path
        if stat.S_ISREG(inode.mode):
            self.result.data_size += inode.size
            new = os.open(name, _NEW_FILE, 0o600, dir_fd=fd)
            self._files.submit(lambda: self._fill(new, inode, path))
        elif stat.S_ISLNK(inode.mode):
            os.symlink(self._image.readlink(nid), name, dir_fd=fd)
            self._finish_at(fd, name, inode, path)
        elif self._mknod(fd, name, inode, path):
            self._finish_at(fd, name, inode, path)
        return False

    def _mknod(self, fd: int, name: bytes, inode: Inode, path: bytes) -> bool:
        device = os.makedev(inode.rdev >> 8 & 0xFFF, inode.rdev & 0xFF | inode.rdev >> 12 & 0xFFF00)
        try:
            os.mknod(name, stat.S_IFMT(inode.mode) | 0o600, device, dir_fd=fd)
        except PermissionError as error:
            self._warn("devices", path, error)
            return False
        return True

    def _link(self, fd: int, name: bytes, first: bytes) -> None:
        folder, _, base = first.rpartition(b"/")
        source = _walk(self._root, folder)
        try:
            os.link(base, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:  # a device that could not be made: said already
            pass
        finally:
            os.close(source)

    def _fill(self, fd: int, inode: Inode, path: bytes) -> None:
        """In a thread: the data of a new file, then all the rest of it."""
        try:
            for extent, piece in self._filesystem.pieces(self._whole.extents(inode)):
                if piece is not None and not _is_zero(piece):
                    _pwrite(fd, piece, extent.file_offset)
                self._progress(extent.length)
            os.ftruncate(fd, inode.size)  # zeros need not be written
            self._finish(fd, inode, inode.nid, path)
        finally:
            os.close(fd)

    def _finish(self, fd: int, inode: Inode, nid: int, path: bytes) -> None:
        self._set(path, "owners", lambda: os.fchown(fd, inode.uid, inode.gid))
        os.fchmod(fd, stat.S_IMODE(inode.mode))
        for name, value in self._image.xattrs(nid).items():
            self._set(path, f"attribute {os.fsdecode(name)!r}", partial(os.setxattr, fd, name, value))
        self._set(path, "times", lambda: os.utime(fd, ns=_times(inode)))

    def _finish_at(self, fd: int, name: bytes, inode: Inode, path: bytes) -> None:
        """As `_finish`, of what cannot be opened without effect: symlinks, devices, FIFOs, sockets."""
        here = b"/proc/self/fd/%d/" % fd + name
        self._set(
            path, "owners", lambda: os.chown(name, inode.uid, inode.gid, dir_fd=fd, follow_symlinks=False)
        )
        if not stat.S_ISLNK(inode.mode):
            os.chmod(name, stat.S_IMODE(inode.mode), dir_fd=fd)
        for key, value in self._image.xattrs(inode.nid).items():
            what = f"attribute {os.fsdecode(key)!r}"
            self._set(path, what, partial(os.setxattr, here, key, value, follow_symlinks=False))
        times = _times(inode)
        self._set(path, "times", lambda: os.utime(name, ns=times, dir_fd=fd, follow_symlinks=False))

    def _set(self, path: bytes, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except OverflowError as error:
            self._warn(what, path, error)
        except OSError as error:
            if error.errno not in _CANNOT_KEEP:
                raise
            self._warn(what, path, error)

    def _warn(self, what: str, path: bytes, error: OSError | OverflowError) -> None:
        if what not in self._warned:
            self._warned.add(what)
            where = os.fsdecode(path)
            self.result.warnings.append(f"{what} cannot be kept, the first of {where!r}: {error}")


def _is_zero(piece: bytes | bytearray | memoryview) -> bool:
    return not piece[0] and bytes(piece).count(0) == len(piece)


def _times(inode: Inode) -> tuple[int, int]:
    seconds = inode.mtime - (1 << 64) if inode.mtime >> 63 else inode.mtime
    time = seconds * 10**9 + inode.mtime_nsec
    return time, time


def _move(fd: int, name: bytes) -> int:
    """Open a directory beside `fd`, which is closed then; it stays open if that fails."""
    new = os.open(name, _DIRECTORY, dir_fd=fd)
    os.close(fd)
    return new


def _walk(root: int, path: bytes) -> int:
    """Open a directory below `root` that was made here; long paths in pieces."""
    fd = os.dup(root)
    parts = [part for part in path.split(b"/") if part]
    try:
        while parts:
            piece = parts.pop(0)
            while parts and len(piece) + len(parts[0]) < _SHORT_PATH:
                piece += b"/" + parts.pop(0)
            fd = _move(fd, piece)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _pwrite(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
