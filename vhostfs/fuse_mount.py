"""Mounting and unmounting FUSE on this host: mount(2) where we may, fusermount3 where we may not.

The session is the descriptor: `open_session` gives an open /dev/fuse that is mounted, with no INIT answered
yet. A mountpoint that was left behind by a process that died is recognised and can be taken off.

Sources: fuse(4), mount.fuse3(8), libfuse's documentation of fusermount's _FUSE_COMMFD.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 1, 2, 4, 8, 1024
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8
MAX_READ = 1 << 20
_FUSE_DEV_IOC_CLONE = 0x8004E500  # _IOR(229, 0, uint32_t)

_FLAGS = {
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "nosuid": (MS_NOSUID, 0),
    "suid": (0, MS_NOSUID),
    "nodev": (MS_NODEV, 0),
    "dev": (0, MS_NODEV),
    "noexec": (MS_NOEXEC, 0),
    "exec": (0, MS_NOEXEC),
    "noatime": (MS_NOATIME, 0),
    "atime": (0, MS_NOATIME),
}
#: of our own or of mount(8)'s; they have no meaning to the kernel
_NO_MEANING = frozenset({"auto", "noauto", "_netdev", "defaults", "user", "nouser", "nofail"})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


class FuseMountError(Exception):
    """Something cannot be mounted or unmounted; the text says why."""


class MountOptions(NamedTuple):
    """`-o` options. `flags`: of mount(2). `allow_other`: users other than the one who mounts. `source`: what
    the mount table names."""

    flags: int = MS_RDONLY | MS_NOSUID | MS_NODEV
    allow_other: bool = False
    allow_root: bool = False
    default_permissions: bool = True
    source: str = "vhostfs"
    subtype: str = "vhostfs"


def parse_options(words: Iterable[str], *, writable: bool = False) -> MountOptions:
    """Parse comma-separated `-o` options. Raises FuseMountError, naming the one that is unknown.

    Where the mount may not be `writable`, `rw` is refused: the image cannot be changed.
    """
    flags = MountOptions().flags & ~(MS_RDONLY if writable else 0)
    switches = {"allow_other": os.geteuid() == 0, "allow_root": False, "default_permissions": True}
    names = {"fsname": "vhostfs", "subtype": "vhostfs"}
    for word in (word for text in words for word in text.split(",") if word):
        name, _, value = word.partition("=")
        if word == "rw" and not writable:
            raise FuseMountError("-o rw: an image cannot be changed; put an overlay on it (--writable)")
        if word in _FLAGS:
            set_, clear = _FLAGS[word]
            flags = (flags | set_) & ~clear
        elif word in switches:
            switches[word] = True
        elif name in names and value:
            names[name] = value
        elif name not in _NO_MEANING:
            raise FuseMountError(
                f"-o {word}: not an option of ours; there are {', '.join(sorted(_FLAGS))}, allow_other, "
                f"allow_root, default_permissions, fsname=NAME, subtype=NAME"
            )
    return MountOptions(flags, source=names["fsname"], subtype=names["subtype"], **switches)


def open_session(mountpoint: Path, options: MountOptions) -> int:
    """Mount a new session at `mountpoint`; returns its descriptor. Raises FuseMountError."""
    try:
        mode = mountpoint.stat().st_mode
    except OSError as error:
        hint = ""
        if error.errno == errno.ENOTCONN:
            hint = "; something that was mounted there has died: take it off with `vhostfs umount`"
        raise FuseMountError(f"{mountpoint}: {error.strerror}{hint}") from error
    if not stat.S_ISDIR(mode):
        raise FuseMountError(f"{mountpoint}: not a directory")
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise FuseMountError(f"/dev/fuse: {error.strerror}; is the kernel's fuse module there?") from error
    data = [
        f"fd={fd}",
        f"rootmode={stat.S_IFMT(mode):o}",
        f"user_id={os.geteuid()}",
        f"group_id={os.getegid()}",
    ]
    data += ["default_permissions"] * options.default_permissions + ["allow_other"] * options.allow_other
    data.append(f"max_read={MAX_READ}")
    result = _libc.mount(
        os.fsencode(options.source),
        os.fsencode(mountpoint),
        os.fsencode(f"fuse.{options.subtype}"),
        options.flags,
        os.fsencode(",".join(data)),
    )
    if result == 0:
        return fd
    code = ctypes.get_errno()
    os.close(fd)
    if code in (errno.EPERM, errno.EACCES):
        return _by_fusermount(mountpoint, options)
    raise FuseMountError(f"cannot mount at {mountpoint}: {os.strerror(code)}")


def _by_fusermount(mountpoint: Path, options: MountOptions) -> int:
    """Have the set-uid helper mount, and hand its descriptor over."""
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise FuseMountError(
            f"cannot mount at {mountpoint}: not permitted, and there is no fusermount3 (Debian: fuse3) to ask"
        )
    words = [f"fsname={options.source}", f"subtype={options.subtype}", f"max_read={MAX_READ}"]
    words += ["ro"] if options.flags & MS_RDONLY else ["rw"]
    words += [name for name in ("allow_other", "allow_root", "default_permissions") if getattr(options, name)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(words), "--", mountpoint],
            env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FuseMountError(f"cannot mount at {mountpoint}: {done.stderr.strip() or program}")
        fds = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(fds.itemsize))
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not fds:
        raise FuseMountError(f"cannot mount at {mountpoint}: {program} gave no descriptor")
    os.set_inheritable(fds[0], False)
    return fds[0]


def clones(fd: int, count: int) -> list[int]:
    """`fd`, and `count` - 1 more descriptors of its session, each with a queue of its own in the kernel.

    A descriptor that is closed, as by the death of its process, takes with it the requests read from it: what
    is to survive us must do with one. Raises OSError; `fd` stays open.
    """
    found = [fd]
    try:
        while len(found) < count:
            found.append(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
            fcntl.ioctl(found[-1], _FUSE_DEV_IOC_CLONE, struct.pack("I", fd))
    except BaseException:
        for other in found[1:]:
            os.close(other)
        raise
    return found


def umount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Take off what is mounted. Raises FuseMountError: busy, or nothing of FUSE is mounted there."""
    if _libc.umount2(os.fsencode(mountpoint), (MNT_DETACH if lazy else 0) | UMOUNT_NOFOLLOW) == 0:
        return
    code = ctypes.get_errno()
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if code == errno.EPERM and program is not None:
        done = subprocess.run(
            [program, "-u", *(["-z"] if lazy else []), "--", mountpoint],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        raise FuseMountError(f"cannot unmount {mountpoint}: {done.stderr.strip()}")
    hint = "; nothing is mounted there" if code == errno.EINVAL else ""
    hint = "; files in it are open (umount --lazy takes it off all the same)" if code == errno.EBUSY else hint
    raise FuseMountError(f"cannot unmount {mountpoint}: {os.strerror(code)}{hint}")


class Mounted(NamedTuple):
    """An entry of the mount table. `id` is its own as long as it is mounted."""

    id: int
    fs_type: str


def mounted_at(mountpoint: Path) -> Mounted | None:
    """What is mounted at exactly this absolute path, by the mount table; None: nothing.

    The path itself is not touched: behind it may be a session that nobody answers.
    """
    wanted = str(mountpoint.parent.resolve() / mountpoint.name)
    found = None
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        number, _, _, _, path, *_ = fields.split(" ")
        if re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path) == wanted:
            found = Mounted(int(number), rest.split(" ")[0])
    return found
