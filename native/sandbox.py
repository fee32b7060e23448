"""What a process can give up, typed (native/decl/sandbox.h): mounts, capabilities, paths, system calls.

Mechanisms only; vhostfs/sandbox.py decides what is given up and in which order. There is no way back from
any of these. But for `SeccompFilter.load`, they act on the calling thread and those that it starts later.
Every function raises OSError, whose text names the step.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

from native._dataplane import ffi, lib
from native.handle import Handle, check


class MountFlag(IntFlag):
    """Flags of a mount, as in mount(8)."""

    RDONLY = lib.VFS_MOUNT_RDONLY
    NOSUID = lib.VFS_MOUNT_NOSUID
    NODEV = lib.VFS_MOUNT_NODEV
    NOEXEC = lib.VFS_MOUNT_NOEXEC


def unshare_mounts(*, with_user: bool, with_network: bool = False) -> None:
    """Enter a mount namespace that follows the current one; `with_user`: by way of a user namespace.

    `with_network`: a network namespace too, which has no interface that is up.
    """
    check(lib.vfs_sandbox_unshare(with_user, with_network), "cannot have a mount namespace")


def mount_tmpfs(target: Path) -> None:
    """Mount a small empty file system."""
    check(lib.vfs_sandbox_mount_tmpfs(os.fsencode(target)), f"cannot mount a tmpfs on {target}")


def bind(source: Path, target: Path, flags: MountFlag, *, recursive: bool) -> None:
    """Let the file or tree `source` appear at `target` too; `recursive`: with what is mounted below it."""
    result = lib.vfs_sandbox_bind(os.fsencode(source), os.fsencode(target), flags, recursive)
    check(result, f"cannot bind {source}")


def umount(target: Path) -> None:
    """Detach a mount and what is mounted below it."""
    check(lib.vfs_sandbox_umount(os.fsencode(target)), f"cannot unmount {target}")


def set_mount_flags(target: Path, flags: MountFlag) -> None:
    """Set flags of the mount at `target`, beside those it has."""
    check(lib.vfs_sandbox_set_mount_flags(os.fsencode(target), flags), f"cannot change the mount at {target}")


def pivot(new_root: Path) -> None:
    """Make a mount the root, let go of the old one, and go to /."""
    check(lib.vfs_sandbox_pivot(os.fsencode(new_root)), f"cannot make {new_root} the root")


def keep_capabilities(kept: int) -> None:
    """Keep those of the capabilities held whose bit (1 << number) is set."""
    check(lib.vfs_sandbox_keep_capabilities(kept), "cannot drop capabilities")


def set_no_new_privs() -> None:
    """No execve of this process or its children may gain privileges."""
    check(lib.vfs_sandbox_set_no_new_privs(), "cannot set no_new_privs")


class Access(IntFlag):
    """Rights on files and directories that Landlock knows (landlock(7)), by ABI in `BY_ABI`."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


#: rights that a rule on something that is no directory may have
FILE_ACCESS = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
_NET_BIND_TCP = 1 << 0
_SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
_SCOPE_SIGNAL = 1 << 1


def access_of_abi(abi: int) -> Access:
    """Every right that `abi` can forbid."""
    known = (1 << 13) - 1
    for since, right in ((2, Access.REFER), (3, Access.TRUNCATE), (5, Access.IOCTL_DEV)):
        if abi >= since:
            known |= right
    return Access(known)


def landlock_abi() -> int:
    """Return the kernel's version of Landlock; 0: it has none, or it is switched off."""
    return int(lib.vfs_landlock_abi())


def restrict_by_landlock(forbidden: Access, rules: Sequence[tuple[Path, Access]]) -> bool:
    """Forbid the rights `forbidden` but where a rule allows them, at its path and below.

    Rights that the kernel does not know are left out. Where it can, it forbids to listen on TCP ports, and to
    reach abstract sockets and processes outside as well. A path that does not exist raises. False: there is
    nothing of all this that this kernel could forbid.
    """
    abi = landlock_abi()
    handled = forbidden & access_of_abi(abi)
    net = _NET_BIND_TCP if abi >= 4 else 0
    scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= 6 else 0
    if not (handled or net or scoped):
        return False
    ruleset = check(lib.vfs_landlock_new(handled, net, scoped), "cannot make a Landlock ruleset")
    try:
        for path, access in rules:
            allowed = access & handled if path.is_dir() else access & handled & FILE_ACCESS
            if allowed:
                what = f"cannot allow {path} by Landlock"
                check(lib.vfs_landlock_allow(ruleset, os.fsencode(path), allowed), what)
        check(lib.vfs_landlock_restrict(ruleset), "cannot restrict us by Landlock")
    finally:
        os.close(ruleset)
    return True


class Action(IntFlag):
    """What becomes of a system call."""

    ALLOW = lib.VFS_SECCOMP_ALLOW
    ERRNO = lib.VFS_SECCOMP_ERRNO
    KILL = lib.VFS_SECCOMP_KILL


class Condition(NamedTuple):
    """On one argument (0 to 5) of a system call, as an unsigned number of 64 bits."""

    argument: int
    compare: int
    value: int
    mask: int = 0


def equal(argument: int, value: int) -> Condition:
    return Condition(argument, lib.VFS_COMPARE_EQUAL, value)


def masked_equal(argument: int, mask: int, value: int) -> Condition:
    """(argument & mask) == value"""
    return Condition(argument, lib.VFS_COMPARE_MASKED_EQUAL, value, mask)


def greater(argument: int, value: int) -> Condition:
    return Condition(argument, lib.VFS_COMPARE_GREATER, value)


class SeccompFilter(Handle):
    """A filter of system calls; what no rule matches gets `action`, which `error` belongs to."""

    def __init__(self, action: Action, error: int = 0, *, is_logged: bool = False) -> None:
        pointer = lib.vfs_seccomp_new(action, error, is_logged)
        if pointer == ffi.NULL:
            raise OSError(ffi.errno, f"cannot make a system call filter: {os.strerror(ffi.errno)}")
        super().__init__(pointer)

    def add(self, action: Action, name: str, conditions: Sequence[Condition] = (), *, error: int = 0) -> bool:
        """Add a rule; all of its conditions must hold. False: libseccomp does not know such a system call."""
        array = ffi.new("struct vfs_seccomp_condition[]", len(conditions))
        for index, condition in enumerate(conditions):
            array[index].argument = condition.argument
            array[index].compare = condition.compare
            array[index].value = condition.value
            array[index].mask = condition.mask
        result = lib.vfs_seccomp_add(self.c, action, error, name.encode(), array, len(conditions))
        if result == -errno.EOPNOTSUPP:
            return False
        check(result, f"cannot add a rule for {name} to the system call filter")
        return True

    def load(self) -> None:
        """Put all threads of the process under the filter."""
        check(lib.vfs_seccomp_load(self.c), "cannot load the system call filter")

    def close(self) -> None:
        if not self.closed:
            lib.vfs_seccomp_free(self._take())
