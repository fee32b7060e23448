"""What guests asked of one mount: native/c/fuse_counters.h."""

from __future__ import annotations

from typing import NamedTuple

from native._dataplane import ffi, lib
from native.handle import Handle


class MountStatistics(NamedTuple):
    """Sums since the mount. The order of operations, and the groups of sizes, are those of VFS_FOP_...

    `read_sizes` counts reads by the bytes that they returned; a missed read has waited for a chunk.
    """

    hits: list[int]
    errors: list[int]
    read_sizes: list[int]
    read_bytes: int
    missed_reads: int

    @property
    def opens(self) -> int:
        return self.hits[int(lib.VFS_FOP_OPEN)]

    @property
    def reads(self) -> int:
        return self.hits[int(lib.VFS_FOP_READ)]


class MountCounters(Handle):
    """Given to `Device.mount_image`; `close` it after the umount."""

    def __init__(self) -> None:
        pointer = lib.vfs_counters_new()
        if pointer == ffi.NULL:
            raise MemoryError
        super().__init__(pointer)

    def read(self) -> MountStatistics:
        """At any time, also while guests add to it."""
        out = ffi.new("struct vfs_mount_statistics *")
        lib.vfs_counters_read(self.c, out)
        return MountStatistics(
            list(out.hits), list(out.errors), list(out.read_sizes), out.read_bytes, out.missed_reads
        )

    def close(self) -> None:
        if not self.closed:
            lib.vfs_counters_free(self._take())
