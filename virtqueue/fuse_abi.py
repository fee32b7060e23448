"""FUSE wire structs that the mock guest speaks (<linux/fuse.h>, 7.31 and later); little-endian. Pure."""

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


class InitFlag(IntEnum):
    """Bits of fuse_init_in / fuse_init_out: flags, and from 32 on flags2."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    CREATE_SUPP_GROUP = 1 << 34


class SetAttr(IntFlag):
    """Bits of fuse_setattr_in.valid."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


ROOT_NODEID = 1
ENTRY_OUT_SIZE = 128
ATTR_OUT_SIZE = 104

IN_HEADER = struct.Struct("<IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
OUT_HEADER = struct.Struct("<IiQ")  # len, error, unique

INIT_IN = struct.Struct("<IIIII44x")  # major, minor, max_readahead, flags, flags2
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
# map_alignment, flags2
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
GETATTR_IN = struct.Struct("<I4xQ")  # getattr_flags, fh
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY_OUT_HEAD = struct.Struct("<QQQQII")  # nodeid, generation, entry_valid, attr_valid, and their nsec
ATTR_OUT_HEAD = struct.Struct("<QI4x")  # attr_valid, attr_valid_nsec
OPEN_IN = struct.Struct("<II")  # flags, open_flags
OPEN_OUT = struct.Struct("<QI4x")  # fh, open_flags
READ_IN = struct.Struct("<QQIIQI4x")  # fh, offset, size, read_flags, lock_owner, flags
RELEASE_IN = struct.Struct("<QIIQ")  # fh, flags, release_flags, lock_owner
DIRENT = struct.Struct("<QQII")  # ino, off, namelen, type
GETXATTR_IN = struct.Struct("<I4x")  # size
GETXATTR_OUT = struct.Struct("<I4x")  # size
FORGET_IN = struct.Struct("<Q")  # nlookup
BATCH_FORGET_IN = struct.Struct("<I4x")  # count
FORGET_ONE = struct.Struct("<QQ")  # nodeid, nlookup
ACCESS_IN = struct.Struct("<I4x")  # mask
LSEEK_IN = struct.Struct("<QQI4x")  # fh, offset, whence
LSEEK_OUT = struct.Struct("<Q")  # offset
INTERRUPT_IN = struct.Struct("<Q")  # unique
STATFS_OUT = struct.Struct("<QQQQQIII28x")  # blocks, bfree, bavail, files, ffree, bsize, namelen, frsize
SETATTR_IN = struct.Struct("<I4xQQQQQQIIIIIII4x")  # see SetAttr
MKNOD_IN = struct.Struct("<III4x")  # mode, rdev, umask
MKDIR_IN = struct.Struct("<II")  # mode, umask
CREATE_IN = struct.Struct("<IIII")  # flags, mode, umask, open_flags
LINK_IN = struct.Struct("<Q")  # oldnodeid
RENAME_IN = struct.Struct("<Q")  # newdir
RENAME2_IN = struct.Struct("<QI4x")  # newdir, flags
WRITE_IN = struct.Struct("<QQIIQI4x")  # fh, offset, size, write_flags, lock_owner, flags
WRITE_OUT = struct.Struct("<I4x")  # size
FSYNC_IN = struct.Struct("<QI4x")  # fh, fsync_flags
FLUSH_IN = struct.Struct("<Q8xQ")  # fh, lock_owner
SETXATTR_IN = struct.Struct("<III4x")  # size, flags, setxattr_flags; the extended form
SETXATTR_IN_COMPAT = struct.Struct("<II")  # size, flags
FALLOCATE_IN = struct.Struct("<QQQI4x")  # fh, offset, length, mode
COPY_FILE_RANGE_IN = struct.Struct("<QQQQQQQ")  # fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
LK_IN = struct.Struct("<QQQQIII4x")  # fh, owner, start, end, type, pid, lk_flags
LK_OUT = struct.Struct("<QQII")  # start, end, type, pid
SYNCFS_IN = struct.Struct("<8x")
IOCTL_IN = struct.Struct("<QIIQII")  # fh, flags, cmd, arg, in_size, out_size
EXT_HEADER = struct.Struct("<II")  # size, type
STATX_IN = struct.Struct("<I4xQII")  # getattr_flags, fh, sx_flags, sx_mask


class Attr(NamedTuple):
    """struct fuse_attr."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class Entry(NamedTuple):
    """struct fuse_entry_out; ``nodeid`` 0 is a negative entry. Times in seconds."""

    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    entry_valid_nsec: int
    attr_valid_nsec: int
    attr: Attr


class Dirent(NamedTuple):
    """One directory entry; ``entry`` only in READDIRPLUS."""

    name: bytes
    ino: int
    off: int
    dtype: int
    entry: Entry | None


class InitReply(NamedTuple):
    """struct fuse_init_out."""

    major: int
    minor: int
    max_readahead: int
    flags: int
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int
    map_alignment: int
    flags2: int


def parse_entry(payload: bytes, offset: int = 0) -> Entry:
    """struct fuse_entry_out at ``offset``."""
    attr = Attr(*ATTR.unpack_from(payload, offset + ENTRY_OUT_HEAD.size))
    nodeid, generation, entry_valid, attr_valid, *nsec = ENTRY_OUT_HEAD.unpack_from(payload, offset)
    return Entry(nodeid, generation, entry_valid, attr_valid, nsec[0], nsec[1], attr)


def parse_dirents(payload: bytes, *, plus: bool) -> list[Dirent]:
    """The entries of a READDIR or READDIRPLUS reply, each padded to 8 bytes."""
    dirents = []
    offset = 0
    while offset < len(payload):
        entry = parse_entry(payload, offset) if plus else None
        offset += ENTRY_OUT_SIZE if plus else 0
        ino, off, namelen, dtype = DIRENT.unpack_from(payload, offset)
        offset += DIRENT.size
        name = payload[offset : offset + namelen]
        if len(name) != namelen:
            raise ValueError("a directory entry runs past the end of the reply")
        dirents.append(Dirent(name, ino, off, dtype, entry))
        offset += (DIRENT.size + namelen + 7) // 8 * 8 - DIRENT.size
    return dirents
