"""A host directory as a mount: its options and facts (native/decl/dataplane.h, native/c/passthroughfs.h)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from native._dataplane import ffi, lib

_NS = 1_000_000_000


class CacheMode(Enum):
    """What a guest may keep of file data, and for how long names and attributes."""

    NEVER = "never"
    AUTO = "auto"
    ALWAYS = "always"


class FileHandles(Enum):
    """Whether inodes are kept as file handles; `PREFER` keeps descriptors where a file system has none."""

    PREFER = "prefer"
    NEVER = "never"
    MANDATORY = "mandatory"


#: Seconds that names and attributes are valid, when the options do not say: as virtiofsd has it.
TIMEOUT_S = {CacheMode.NEVER: 0.0, CacheMode.AUTO: 1.0, CacheMode.ALWAYS: 86_400.0}
_CACHE = {
    CacheMode.NEVER: lib.VFS_CACHE_NEVER,
    CacheMode.AUTO: lib.VFS_CACHE_AUTO,
    CacheMode.ALWAYS: lib.VFS_CACHE_ALWAYS,
}
_HANDLES = {
    FileHandles.PREFER: lib.VFS_FILE_HANDLES_PREFER,
    FileHandles.NEVER: lib.VFS_FILE_HANDLES_NEVER,
    FileHandles.MANDATORY: lib.VFS_FILE_HANDLES_MANDATORY,
}


@dataclass(frozen=True)
class DirectoryOptions:
    """How a host directory is shared.

    `cache`: see CacheMode; `entry_timeout` and `attr_timeout` (seconds) override what it implies.
    `writeback` and `locks` (POSIX locks and flock on the host; nobody waits for one) are for the whole
    session, and hold if the mount is there before the guest's driver. `announce_submounts`: mounts inside
    get devices of their own in the guest.
    """

    cache: CacheMode = CacheMode.AUTO
    entry_timeout: float | None = None
    attr_timeout: float | None = None
    file_handles: FileHandles = FileHandles.PREFER
    writeback: bool = False
    locks: bool = False
    announce_submounts: bool = False

    def pack(self) -> Any:
        """struct vfs_directory_options. Raises ValueError for a timeout that is negative."""
        flags = (
            (lib.VFS_DIRECTORY_WRITEBACK if self.writeback else 0)
            | (lib.VFS_DIRECTORY_LOCKS if self.locks else 0)
            | (lib.VFS_DIRECTORY_SUBMOUNTS if self.announce_submounts else 0)
        )
        entry_ns, attr_ns = self._timeout_ns(self.entry_timeout), self._timeout_ns(self.attr_timeout)
        return ffi.new(
            "struct vfs_directory_options *",
            (entry_ns, attr_ns, _CACHE[self.cache], _HANDLES[self.file_handles], flags),
        )

    def _timeout_ns(self, timeout: float | None) -> int:
        seconds = TIMEOUT_S[self.cache] if timeout is None else timeout
        if not 0 <= seconds < 2**33:
            raise ValueError(f"a timeout of {seconds} s: must be from 0 to 2^33")
        return int(seconds * _NS)


class DirectoryFacts(NamedTuple):
    """What a guest holds of a shared directory (struct vfs_directory_facts); all are counts."""

    inodes: int
    path_fds: int
    open_files: int
    mounts: int
    mount_fds: int
