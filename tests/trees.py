"""Nasty test trees, made the same each time, and a description of any tree to compare it by.

`make_nasty_tree` needs root (owners, devices, trusted attributes) and a file system with extended attributes.
`describe` reads a tree through ordinary system calls, so that it serves for a source, a kernel mount, a FUSE
mount or an extracted copy.
"""

# ruff: noqa: PTH101, PTH103, PTH115, PTH118, PTH123, PTH208, PTH211 (a pathlib.Path cannot hold bytes)
from __future__ import annotations

import errno
import hashlib
import os
import random
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BORDERS = (4096, 64 << 10, 1 << 20)
#: an access ACL with a named user and a mask; the group bits of the mode become its mask
ACL = struct.pack(
    "<I" + "HHI" * 5,
    *(2, 1, 6, 0xFFFFFFFF, 2, 5, 1000, 4, 4, 0xFFFFFFFF, 16, 5, 0xFFFFFFFF, 32, 4, 0xFFFFFFFF),
)
ODD_NAMES = [
    b"\xff\xfe\x80 not utf-8",
    "ümläut \U0001f980".encode(),
    b"!sorts before the dot",
    b"-rf",
    b" ",
    b"new\nline",
    b"tab\tand \x01 control",
    b"back\\slash",
    b"quo\"te's",
    b"..a",
    b"...",
    b".hidden",
    b".wh.marker",
    b".wh..wh..opq",
    b"x" * 255,
    b"\xf0" * 255,
    b"~",
    b"\x7f",
]


@dataclass(frozen=True)
class Entry:
    """One name of a tree. `size` is 0 for directories, whose size is the file system's own affair."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int
    rdev: int
    link_of: bytes  # the first name, in walking order, of the same inode
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sha256: str = ""


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (path, path below root), parents first, names sorted; the root itself is b"."."""
    yield root, b"."
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        for name in sorted(os.listdir(os.path.join(root, folder))):
            below = os.path.join(folder, name)
            yield os.path.join(root, below), below
            if stat.S_ISDIR(os.lstat(os.path.join(root, below)).st_mode):
                waiting.append(below)


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}


def describe(root: str | bytes | os.PathLike[str]) -> dict[bytes, Entry]:
    """Return every entry under `root` by its path below it, with the SHA-256 of every regular file."""
    found: dict[bytes, Entry] = {}
    first_names: dict[tuple[int, int], bytes] = {}
    digests: dict[tuple[int, int], str] = {}
    for path, below in _walk(os.fsencode(root)):
        st = os.lstat(path)
        identity = (st.st_dev, st.st_ino)
        if stat.S_ISREG(st.st_mode) and identity not in digests:
            with open(path, "rb") as file:
                digests[identity] = hashlib.file_digest(file, "sha256").hexdigest()
        found[below] = Entry(
            mode=st.st_mode,
            uid=st.st_uid,
            gid=st.st_gid,
            size=0 if stat.S_ISDIR(st.st_mode) else st.st_size,
            mtime_ns=st.st_mtime_ns,
            nlink=st.st_nlink,
            rdev=st.st_rdev if stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode) else 0,
            link_of=first_names.setdefault(identity, below),
            target=os.readlink(path) if stat.S_ISLNK(st.st_mode) else b"",
            xattrs=_xattrs(path),
            sha256=digests.get(identity, ""),
        )
    return found


def differences(expected: dict[bytes, Entry], actual: dict[bytes, Entry]) -> list[str]:
    """Say in words what differs, so that a failed comparison of thousands of entries can be read."""
    said = [f"missing: {name!r}" for name in expected.keys() - actual.keys()]
    said += [f"unexpected: {name!r}" for name in actual.keys() - expected.keys()]
    for name in expected.keys() & actual.keys():
        want, got = vars(expected[name]), vars(actual[name])
        said += [f"{name!r}: {key} {got[key]!r}, not {want[key]!r}" for key in want if want[key] != got[key]]
    return sorted(said)


class _Maker:
    """Makes entries below a root. Times are set last, since each new name touches its directory."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = os.fsencode(root)
        self.random = random.Random(seed)

    def path(self, below: bytes) -> bytes:
        return os.path.join(self.root, below)

    def folder(self, below: bytes) -> None:
        os.makedirs(self.path(below), exist_ok=True)

    def file(self, below: bytes, data: bytes = b"") -> bytes:
        path = self.path(below)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def text(self, size: int) -> bytes:
        """`size` bytes that compress well, each time others."""
        words = [self.random.randbytes(self.random.randint(2, 9)).hex().encode() for _ in range(50)]
        line = b" ".join(self.random.choices(words, k=400)) + b"\n"
        return (line * (size // len(line) + 1))[:size]

    def xattr(self, path: bytes, name: str, value: bytes) -> None:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            # no ACLs on this file system; everything else is expected of it
            if error.errno != errno.ENOTSUP or "posix_acl" not in name:
                raise

    def set_times(self) -> None:
        """Give every entry a time of its own, directories after their content; keep the ones under times/."""
        names = [(path, below) for path, below in _walk(self.root) if not below.startswith(b"times/")]
        for path, _ in reversed(names):
            time_ns = self.random.randrange(10**9, 1_900_000_000) * 10**9 + self.random.randrange(10**9)
            os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def make_nasty_tree(root: Path, *, seed: int = 1, small_files: int = 1500, large: bool = True) -> None:
    """Fill the new directory `root` with some 4,400 entries that break builders, 100 MiB of them if `large`.

    The same arguments give the same tree on any machine.
    """
    root.mkdir(parents=True)
    maker = _Maker(root, seed)
    _border_sizes(maker)
    _odd_names(maker)
    _symlinks(maker)
    _special_files(maker)
    _hard_links(maker)
    _attributes(maker)
    _modes_and_owners(maker)
    _crowds(maker, small_files)
    if large:
        _large_files(maker)
    maker.set_times()
    _times(maker)
    os.utime(root, ns=(1_234_567_890_123_456_789,) * 2)


def _border_sizes(maker: _Maker) -> None:
    maker.folder(b"sizes")
    sizes = {0, 1, 5, 511, 512, 513} | {
        factor * border + delta for border in BORDERS for factor in (1, 2, 3) for delta in (-1, 0, 1)
    }
    for size in sorted(sizes):
        maker.file(b"sizes/random-%d" % size, maker.random.randbytes(size))
        maker.file(b"sizes/text-%d" % size, maker.text(size))


def _odd_names(maker: _Maker) -> None:
    maker.folder(b"names")
    for position, name in enumerate(ODD_NAMES):
        maker.file(b"names/" + name, b"%d" % position)
    maker.folder(b"names/folders")
    for name in ODD_NAMES:
        maker.folder(b"names/folders/" + name + b"/inner")
    deep = b"deep"
    for level in range(60):
        deep += b"/%d" % level
    maker.folder(deep)
    maker.file(deep + b"/end", b"the end")


def _symlinks(maker: _Maker) -> None:
    maker.folder(b"symlinks")
    targets = {
        b"short": b"../sizes/random-5",
        b"dangling": b"/no/such/place",
        b"self": b"self",
        b"not-utf-8": b"\xff\xfe\x80",
        b"one": b"x",
    }
    # 4032 is what fits behind an inode in its block; 4095 is the longest that Linux makes
    for length in (59, 60, 61, 4000, 4031, 4032, 4033, 4095):
        targets[b"long-%d" % length] = b"/".join([b"d" * 99] * 41)[:length]
    for name, target in targets.items():
        os.symlink(target, maker.path(b"symlinks/" + name))
    os.lchown(maker.path(b"symlinks/short"), 12, 34)
    maker.xattr(maker.path(b"symlinks/long-4000"), "trusted.on-a-link", b"yes")


def _special_files(maker: _Maker) -> None:
    maker.folder(b"special")
    for name, kind, device in (
        (b"fifo", stat.S_IFIFO | 0o640, 0),
        (b"socket", stat.S_IFSOCK | 0o755, 0),
        (b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        (b"whiteout", stat.S_IFCHR, os.makedev(0, 0)),
        (b"large-minor", stat.S_IFCHR | 0o600, os.makedev(300, 70000)),
        (b"loop", stat.S_IFBLK | 0o660, os.makedev(7, 0)),
        (b"largest", stat.S_IFBLK | 0o660, os.makedev(4095, 0xFFFFF)),
    ):
        os.mknod(maker.path(b"special/" + name), kind, device)
        os.chmod(maker.path(b"special/" + name), stat.S_IMODE(kind))


def _hard_links(maker: _Maker) -> None:
    maker.folder(b"links/a/z")
    maker.folder(b"links/b")
    first = maker.file(b"links/b/original", maker.random.randbytes(10_000))
    for name in (b"links/a/one", b"links/a/z/two", b"links/three"):
        os.link(first, maker.path(name))
    crowd = maker.file(b"links/crowd", b"crowd")
    for number in range(300):
        os.link(crowd, maker.path(b"links/b/crowd-%d" % number))
    empty = maker.file(b"links/empty")
    os.link(empty, maker.path(b"links/a/empty"))
    os.symlink(b"nowhere", maker.path(b"links/symlink"))
    os.link(maker.path(b"links/symlink"), maker.path(b"links/a/symlink"), follow_symlinks=False)
    os.mkfifo(maker.path(b"links/fifo"))
    os.link(maker.path(b"links/fifo"), maker.path(b"links/b/fifo"))


def _attributes(maker: _Maker) -> None:
    maker.folder(b"xattrs/folder")
    folder = maker.path(b"xattrs/folder")
    maker.xattr(folder, "user.on-a-folder", b"value")
    maker.xattr(folder, "trusted.overlay.opaque", b"y")
    maker.xattr(folder, "system.posix_acl_default", ACL)
    one = maker.file(b"xattrs/all", b"all prefixes")
    for name in ("user.", "trusted.", "security."):
        maker.xattr(one, f"{name}name", name.encode() * 3)
        maker.xattr(one, f"{name}\xff\u20ac", b"\0\xff\0")
    maker.xattr(one, "user.empty", b"")
    maker.xattr(one, "system.posix_acl_access", ACL)
    maker.xattr(maker.file(b"xattrs/long-name"), "user." + "n" * 250, b"long")
    maker.xattr(maker.file(b"xattrs/long-value", b"data"), "user.long", maker.random.randbytes(3000))
    # file capabilities: cap_net_raw=ep
    maker.xattr(
        maker.file(b"xattrs/capable"), "security.capability", bytes.fromhex("01000002 00200000" + "00" * 12)
    )
    os.mkfifo(maker.path(b"xattrs/fifo"))
    maker.xattr(maker.path(b"xattrs/fifo"), "trusted.on-a-fifo", b"yes")
    for number in range(64):  # moves the chunk indexes and inline tails behind it about
        path = maker.file(b"xattrs/many-%d" % number, maker.random.randbytes(number * 1000))
        for index in range(number % 17):
            maker.xattr(path, f"user.{number}.{index}", maker.random.randbytes(index * 7))


def _modes_and_owners(maker: _Maker) -> None:
    maker.folder(b"modes")
    for mode in (0, 0o1, 0o644, 0o777, 0o1755, 0o2755, 0o4755, 0o7777):
        os.chmod(maker.file(b"modes/file-%o" % mode, b"x"), mode)
        maker.folder(b"modes/folder-%o" % mode)
        os.chmod(maker.path(b"modes/folder-%o" % mode), mode)
    for uid, gid in ((65534, 65534), (65536, 1), (1, 100_000), (0xFFFFFFFE, 0xFFFFFFFE)):
        os.chown(maker.file(b"modes/owner-%d-%d" % (uid, gid)), uid, gid)


def _crowds(maker: _Maker, small_files: int) -> None:
    maker.folder(b"crowd")
    for number in range(2000):
        name = b"crowd/%d-" % number + b"n" * (number * 7 % 200)
        maker.file(name, b"" if number % 3 else b"%d" % (number % 50))
    maker.folder(b"crowd/inner")
    for number in range(small_files):
        folder = b"small/%d/%d" % (number % 7, number % 41)
        maker.folder(folder)
        size = maker.random.choice((0, 10, 100, 1000, 5000, 20_000))
        maker.file(folder + b"/%d" % number, maker.text(size) if number % 2 else maker.random.randbytes(size))
    maker.folder(b"empty")


def _large_files(maker: _Maker) -> None:
    maker.folder(b"large")
    data = maker.random.randbytes((5 << 20) + 12_345)
    maker.file(b"large/random", data)
    maker.file(b"large/random-again", data)
    maker.file(b"large/shifted", data[100:])
    maker.file(b"large/text", maker.text((9 << 20) + 1))
    maker.file(b"large/zeros", bytes((3 << 20) + 7))
    maker.file(b"large/half-repeated", data[: 2 << 20] + maker.random.randbytes(1 << 20) + data[: 2 << 20])
    sparse = maker.file(b"large/sparse")
    with open(sparse, "r+b") as file:
        for offset in (0, (1 << 20) - 1, 5 << 20, (7 << 20) + 4096, (16 << 20) - 1):
            file.seek(offset)
            file.write(b"island")
        file.truncate((24 << 20) + 3)
    os.truncate(maker.file(b"large/only-a-hole"), (2 << 20) + 1)


def _times(maker: _Maker) -> None:
    maker.folder(b"times")
    for name, time_ns in (
        (b"zero", 0),
        (b"before-1970", -1_500_000_001),
        (b"after-2038", (1 << 32) * 10**9 + 999_999_999),
        (b"one-nanosecond", 1),
    ):
        os.utime(maker.file(b"times/" + name), ns=(time_ns, time_ns))
    os.utime(maker.path(b"times"), ns=(7, 7))
