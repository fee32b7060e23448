"""What a sandboxed daemon keeps: the nouns. Which daemon keeps what: sandbox_serve.py, sandbox_nydusd.py."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple

from native.sandbox import Access, MountFlag, access_of_abi
from vhostfs.sandbox_options import SandboxOptions

#: of capabilities(7), in order of their numbers
CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]

_SEALED = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
_CHANGE = Access.WRITE_FILE | Access.TRUNCATE | Access.MAKE_REG | Access.REMOVE_FILE
_EVERYTHING = access_of_abi(99)


class SandboxError(Exception):
    """A part of the sandbox does not work; the text says which, and how to go without."""


class Use(Enum):
    """What a place is for: (flags of its mount, rights by Landlock)."""

    READ = (_SEALED | MountFlag.RDONLY, Access.READ_FILE | Access.READ_DIR)
    #: modules and libraries, which are mapped to be run
    CODE = (_SEALED & ~MountFlag.NOEXEC | MountFlag.RDONLY, Access.READ_FILE | Access.READ_DIR)
    DEVICE = (MountFlag.NOSUID | MountFlag.NOEXEC, Access.READ_FILE | Access.WRITE_FILE)
    #: sockets are put there (bind, link, rename) and removed
    SOCKETS = (_SEALED, Access.MAKE_SOCK | Access.REMOVE_FILE)
    #: files are written there from their beginning: logs, statistics
    OUTPUT = (_SEALED, _CHANGE)
    WRITE = (
        _SEALED,
        _CHANGE | Access.READ_FILE | Access.READ_DIR | Access.MAKE_DIR | Access.REMOVE_DIR | Access.REFER,
    )
    #: what a guest may change as it likes (whiteouts are devices: they are made, never opened)
    SHARED = (_SEALED, _EVERYTHING & ~(Access.EXECUTE | Access.IOCTL_DEV))

    @property
    def mount_flags(self) -> MountFlag:
        flags: MountFlag = self.value[0]
        return flags

    @property
    def access(self) -> Access:
        access: Access = self.value[1]
        return access


class Place(NamedTuple):
    """A file, or a directory and all below it; absolute."""

    path: Path
    use: Use


#: what every daemon uses; the last tells whether the machine has been restarted since the cache was written
ALWAYS = (
    Place(Path("/dev/null"), Use.DEVICE),
    Place(Path("/dev/urandom"), Use.DEVICE),
    Place(Path("/proc/sys/kernel/random/boot_id"), Use.READ),
)


def chosen_places(chosen: SandboxOptions) -> list[Place]:
    """What the command line adds. Raises SandboxError for what does not exist: it cannot be shown later."""
    for option, paths in (("readable", chosen.readable), ("writable", chosen.writable)):
        for path in paths:
            if not path.exists():
                raise SandboxError(f"--sandbox-{option} {path}: no such file or directory")
    return [
        *(Place(path, Use.READ) for path in chosen.readable),
        *(Place(path, Use.SHARED) for path in chosen.writable),
    ]


class SandboxPolicy(NamedTuple):
    """What stays; `off`: parts that are not wanted."""

    places: tuple[Place, ...]
    #: those below which the host's later mounts must be seen
    followed: tuple[Path, ...] = ()
    capabilities: frozenset[str] = frozenset()
    #: TCP, UDP; else Unix sockets only, and no network interface
    network: bool = False
    #: directories in which an agent may be started for a cache
    caches: tuple[Path, ...] = ()
    #: modules are imported later on
    late_code: bool = False
    #: a host directory is served for reading and writing
    passthrough: bool = False
    #: its inodes are held by handles, not by descriptors
    file_handles: bool = False
    #: files are read by descriptors of others, wherever they are
    reads_by_descriptor: bool = False
    #: wanted limit of open descriptors; None: as many as can be had without privilege; 0: leave it
    nofile: int | None = None
    off: frozenset[str] = frozenset()

    @property
    def forbidden(self) -> Access:
        """The rights on files that Landlock takes away but where a place gives them.

        None where files are opened by handle: Landlock judges a file by the directories above it, and such a
        file may have none in memory. It could not be opened any more nor, whatever the rules, linked.
        Which files are reached is a matter of mounts alone then. So it is for reading where descriptors come
        from outside.
        """
        if self.file_handles:
            return Access(0)
        return _EVERYTHING & ~Use.READ.access if self.reads_by_descriptor else _EVERYTHING
