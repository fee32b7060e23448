"""``FileClient``: a ``FuseClient`` that changes things: the calls of a file system that is not an image.

Part of the driver-side mock. ``uid`` and ``gid`` of the client are the calling process's; ``umask`` goes
along with what is made, as a driver sends it under DONT_MASK.
"""

import errno
import os
from typing import NamedTuple

from virtqueue import fuse_abi as abi
from virtqueue.fuse_abi import Attr, Entry, InitFlag, InitReply, Opcode, SetAttr
from virtqueue.fuse_client import FuseClient

#: What a Linux 6.x driver offers.
LINUX_FLAGS = (
    InitFlag.ASYNC_READ
    | InitFlag.POSIX_LOCKS
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.EXPORT_SUPPORT
    | InitFlag.DONT_MASK
    | InitFlag.FLOCK_LOCKS
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.WRITEBACK_CACHE
    | InitFlag.NO_OPEN_SUPPORT
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.POSIX_ACL
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.NO_OPENDIR_SUPPORT
    | InitFlag.SUBMOUNTS
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.SETXATTR_EXT
    | InitFlag.INIT_EXT
    | InitFlag.SECURITY_CTX
    | InitFlag.CREATE_SUPP_GROUP
)

EXT_GROUPS = 32
WRITE_CACHE, WRITE_KILL_SUIDGID = 1 << 0, 1 << 2
OPEN_KILL_SUIDGID = 1 << 0
LK_FLOCK = 1 << 0
END_OF_FILE = (1 << 63) - 1


class Lock(NamedTuple):
    """struct fuse_file_lock; ``type`` as in fcntl.F_RDLCK."""

    start: int
    end: int
    type: int
    pid: int


def group_extension(gid: int) -> bytes:
    """The caller is in this supplementary group."""
    return abi.EXT_HEADER.pack(16, EXT_GROUPS) + (1).to_bytes(4, "little") + gid.to_bytes(4, "little")


def label_extension(name: bytes, value: bytes) -> bytes:
    """A security context for what is made: an extended attribute."""
    context = len(value).to_bytes(4, "little") + bytes(4) + name + b"\0" + value
    padded = context + bytes(-len(context) % 8)
    return abi.EXT_HEADER.pack(8 + len(padded), 1) + padded


class FileClient(FuseClient):
    """FUSE calls on a writable file system; see FuseClient for the arguments."""

    umask = 0
    _flags = 0

    def init(self, *, major: int = 7, minor: int = 39, flags: int = LINUX_FLAGS) -> InitReply:
        reply = super().init(major=major, minor=minor, flags=flags)
        self._flags = reply.flags | reply.flags2 << 32
        return reply

    def _entry(self, opcode: int, parent: int, body: bytes, extensions: bytes = b"") -> Entry:
        unique = self.submit(opcode, parent, body, reply_size=abi.ENTRY_OUT_SIZE, extensions=extensions)
        return abi.parse_entry(self.wait(unique))

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int = 0, *, extensions: bytes = b"") -> Entry:
        """``rdev`` in Linux's 32-bit coding."""
        body = abi.MKNOD_IN.pack(mode, rdev, self.umask) + name + b"\0"
        return self._entry(Opcode.MKNOD, parent, body, extensions)

    def mkdir(self, parent: int, name: bytes, mode: int = 0o755, *, extensions: bytes = b"") -> Entry:
        body = abi.MKDIR_IN.pack(mode, self.umask) + name + b"\0"
        return self._entry(Opcode.MKDIR, parent, body, extensions)

    def symlink(self, parent: int, name: bytes, target: bytes, *, extensions: bytes = b"") -> Entry:
        return self._entry(Opcode.SYMLINK, parent, name + b"\0" + target + b"\0", extensions)

    def link(self, nodeid: int, parent: int, name: bytes) -> Entry:
        return self._entry(Opcode.LINK, parent, abi.LINK_IN.pack(nodeid) + name + b"\0")

    def _open(
        self, opcode: int, parent: int, name: bytes, flags: int, mode: int, open_flags: int, extensions: bytes
    ) -> tuple[Entry, int]:
        body = abi.CREATE_IN.pack(flags, mode, self.umask, open_flags) + name + b"\0"
        size = abi.ENTRY_OUT_SIZE + abi.OPEN_OUT.size
        payload = self.wait(self.submit(opcode, parent, body, reply_size=size, extensions=extensions))
        fh, _ = abi.OPEN_OUT.unpack_from(payload, abi.ENTRY_OUT_SIZE)
        return abi.parse_entry(payload), int(fh)

    def create(
        self,
        parent: int,
        name: bytes,
        flags: int = os.O_RDWR,
        mode: int = 0o644,
        *,
        open_flags: int = 0,
        extensions: bytes = b"",
    ) -> tuple[Entry, int]:
        """The entry and the handle."""
        return self._open(Opcode.CREATE, parent, name, flags, mode, open_flags, extensions)

    def tmpfile(self, parent: int, flags: int = os.O_RDWR, mode: int = 0o600) -> tuple[Entry, int]:
        return self._open(Opcode.TMPFILE, parent, b"/", flags, mode, 0, b"")

    def open_file(self, nodeid: int, flags: int = os.O_RDONLY, *, open_flags: int = 0) -> int:
        """OPEN; the handle."""
        body = abi.OPEN_IN.pack(flags, open_flags)
        fh, _ = abi.OPEN_OUT.unpack(self.call(Opcode.OPEN, nodeid, body, reply_size=abi.OPEN_OUT.size))
        return int(fh)

    def opendir(self, nodeid: int) -> int:
        body = abi.OPEN_IN.pack(os.O_RDONLY | os.O_DIRECTORY, 0)
        fh, _ = abi.OPEN_OUT.unpack(self.call(Opcode.OPENDIR, nodeid, body, reply_size=abi.OPEN_OUT.size))
        return int(fh)

    def release(self, nodeid: int, fh: int, *, directory: bool = False) -> None:
        opcode = Opcode.RELEASEDIR if directory else Opcode.RELEASE
        self.call(opcode, nodeid, abi.RELEASE_IN.pack(fh, 0, 0, 0))

    def list_dir(self, nodeid: int, *, plus: bool = True, size: int = 4096) -> list[abi.Dirent]:
        """OPENDIR, every entry, RELEASEDIR."""
        fh = self.opendir(nodeid)
        try:
            return self.readdir(nodeid, plus=plus, fh=fh, size=size)
        finally:
            self.release(nodeid, fh, directory=True)

    def unlink(self, parent: int, name: bytes) -> None:
        self.call(Opcode.UNLINK, parent, name + b"\0")

    def rmdir(self, parent: int, name: bytes) -> None:
        self.call(Opcode.RMDIR, parent, name + b"\0")

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int | None = None
    ) -> None:
        """RENAME, or RENAME2 when there are ``flags``."""
        names = name + b"\0" + new_name + b"\0"
        if flags is None:
            self.call(Opcode.RENAME, parent, abi.RENAME_IN.pack(new_parent) + names)
        else:
            self.call(Opcode.RENAME2, parent, abi.RENAME2_IN.pack(new_parent, flags) + names)

    def setattr(self, nodeid: int, valid: int, **values: int) -> Attr:
        """``values``: fh, size, lock_owner, atime, mtime, ctime, their nsec, mode, uid, gid; 0 by default."""
        names = "fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode unused uid gid"
        fields = dict.fromkeys(names.split(), 0) | values
        body = abi.SETATTR_IN.pack(valid, *fields.values())
        payload = self.call(Opcode.SETATTR, nodeid, body, reply_size=abi.ATTR_OUT_SIZE)
        return Attr(*abi.ATTR.unpack_from(payload, abi.ATTR_OUT_HEAD.size))

    def truncate(self, nodeid: int, size: int, *, fh: int | None = None) -> Attr:
        valid = SetAttr.SIZE if fh is None else SetAttr.SIZE | SetAttr.FH
        return self.setattr(nodeid, valid, size=size, fh=fh or 0)

    def submit_write(self, nodeid: int, fh: int, offset: int, data: bytes, *, write_flags: int = 0) -> int:
        """One WRITE, not waited for."""
        body = abi.WRITE_IN.pack(fh, offset, len(data), write_flags, 0, 0) + data
        return self.submit(Opcode.WRITE, nodeid, body, reply_size=abi.WRITE_OUT.size)

    def write(self, nodeid: int, fh: int, offset: int, data: bytes, *, write_flags: int = 0) -> int:
        """Bytes written."""
        reply = self.wait(self.submit_write(nodeid, fh, offset, data, write_flags=write_flags))
        return int(abi.WRITE_OUT.unpack(reply)[0])

    def fsync(self, nodeid: int, fh: int, *, data_only: bool = False, directory: bool = False) -> None:
        opcode = Opcode.FSYNCDIR if directory else Opcode.FSYNC
        self.call(opcode, nodeid, abi.FSYNC_IN.pack(fh, data_only))

    def syncfs(self, nodeid: int = abi.ROOT_NODEID) -> None:
        self.call(Opcode.SYNCFS, nodeid, abi.SYNCFS_IN.pack())

    def flush(self, nodeid: int, fh: int, *, owner: int = 0) -> None:
        self.call(Opcode.FLUSH, nodeid, abi.FLUSH_IN.pack(fh, owner))

    def setxattr(
        self, nodeid: int, name: bytes, value: bytes, flags: int = 0, *, setxattr_flags: int = 0
    ) -> None:
        if self._flags & InitFlag.SETXATTR_EXT:
            head = abi.SETXATTR_IN.pack(len(value), flags, setxattr_flags)
        else:
            head = abi.SETXATTR_IN_COMPAT.pack(len(value), flags)
        self.call(Opcode.SETXATTR, nodeid, head + name + b"\0" + value)

    def removexattr(self, nodeid: int, name: bytes) -> None:
        self.call(Opcode.REMOVEXATTR, nodeid, name + b"\0")

    def access(self, nodeid: int, mask: int) -> bool:
        """Whether it is allowed."""
        try:
            self.call(Opcode.ACCESS, nodeid, abi.ACCESS_IN.pack(mask))
        except OSError as error:
            if error.errno == errno.EACCES:
                return False
            raise
        return True

    def fallocate(self, nodeid: int, fh: int, offset: int, length: int, mode: int = 0) -> None:
        self.call(Opcode.FALLOCATE, nodeid, abi.FALLOCATE_IN.pack(fh, offset, length, mode))

    def copy_file_range(
        self, nodeid: int, fh: int, offset: int, to_nodeid: int, to_fh: int, to_offset: int, length: int
    ) -> int:
        """Bytes copied."""
        body = abi.COPY_FILE_RANGE_IN.pack(fh, offset, to_nodeid, to_fh, to_offset, length, 0)
        payload = self.call(Opcode.COPY_FILE_RANGE, nodeid, body, reply_size=abi.WRITE_OUT.size)
        return int(abi.WRITE_OUT.unpack(payload)[0])

    def getlk(
        self, nodeid: int, fh: int, owner: int, type_: int, start: int = 0, end: int = END_OF_FILE
    ) -> Lock:
        """A lock in the way of this one; of type F_UNLCK when there is none."""
        body = abi.LK_IN.pack(fh, owner, start, end, type_, 1, 0)
        return Lock(*abi.LK_OUT.unpack(self.call(Opcode.GETLK, nodeid, body, reply_size=abi.LK_OUT.size)))

    def setlk(
        self,
        nodeid: int,
        fh: int,
        owner: int,
        type_: int,
        start: int = 0,
        end: int = END_OF_FILE,
        *,
        wait: bool = False,
        flock: bool = False,
    ) -> None:
        body = abi.LK_IN.pack(fh, owner, start, end, type_, 1, LK_FLOCK if flock else 0)
        self.call(Opcode.SETLKW if wait else Opcode.SETLK, nodeid, body)
