"""The virtio-fs device: native/c/device.c."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from native._dataplane import ffi, lib
from native.chunks import Blob, ChunkStore
from native.counters import MountCounters
from native.directory import DirectoryFacts, DirectoryOptions
from native.handle import Handle, check
from native.image import Image
from native.trace import TraceLog

_FIRST_NODE = 2  # behind FUSE_ROOT_ID
_MAX_PATH = 64 << 10


class MemoryRegion(NamedTuple):
    """One guest memory region: bytes `[mmap_offset, mmap_offset + size)` of `fd`."""

    gpa: int
    size: int
    user_addr: int
    mmap_offset: int
    fd: int


class Device(Handle):
    """The virtio-fs device (native/c/device.c): queue 0 is hiprio, 1.. are request queues.

    Without request queues it has no hiprio queue either: a FuseSession serves it.

    `shared` is for sessions with host directories or mounts that come and go; without, guests may
    cache everything for ever. One caller at a time. Errors are OSError; EINVAL names a request that
    makes no sense, EFAULT addresses outside guest memory.
    """

    def __init__(
        self,
        store: ChunkStore,
        *,
        num_request_queues: int = 1,
        shared: bool = False,
        miss_timeout_ms: int = 30_000,
        poll_us: int = 50,
    ) -> None:
        if num_request_queues < 0:
            raise ValueError(f"{num_request_queues} request queues")
        self.queue_count = num_request_queues + 1 if num_request_queues else 0
        pointer = lib.vfs_device_new(
            store.c, self.queue_count, shared, miss_timeout_ms * 1_000_000, poll_us * 1000
        )
        if pointer == ffi.NULL:
            raise OSError(
                ffi.errno, f"device with {num_request_queues} request queues: {os.strerror(ffi.errno)}"
            )
        super().__init__(pointer)
        self._mounted: dict[str, object] = {}  # what C points into, by path

    def mount_image(
        self, path: str, image: Image, blobs: Sequence[Blob], counters: MountCounters | None = None
    ) -> None:
        """Mount `image` at an absolute path; `blobs` in the order of its blob table.

        At "/" it is all that is served. What guests ask of it is counted in `counters`, which must stay
        open until it is unmounted. Raises FileExistsError, NotADirectoryError.
        """
        if len(blobs) != image.blob_count:
            raise ValueError(f"{len(blobs)} blobs for an image with {image.blob_count}")
        pointers = ffi.new("struct blob *[]", [blob.c for blob in blobs])
        counted = ffi.NULL if counters is None else counters.c
        check(
            lib.vfs_device_mount_image(self.c, os.fsencode(path), image.c, pointers, counted), f"mount {path}"
        )
        self._mounted[path] = (image, list(blobs), counters)

    def mount_directory(
        self,
        path: str,
        source: str | os.PathLike[str] | int,
        *,
        options: DirectoryOptions | None = None,
        counters: MountCounters | None = None,
    ) -> None:
        """Share the host directory `source` (a path, or a descriptor that stays the caller's) at `path`.

        Needs a `shared` device. Raises FileExistsError, NotADirectoryError, and OSError: EOPNOTSUPP where
        file handles are mandatory and cannot be had.
        """
        flags = os.O_PATH | os.O_DIRECTORY
        fd = os.open(".", flags, dir_fd=source) if isinstance(source, int) else os.open(source, flags)
        try:
            packed = (options or DirectoryOptions()).pack()
            counted = ffi.NULL if counters is None else counters.c
            result = lib.vfs_device_mount_directory(self.c, os.fsencode(path), fd, packed, counted)
            check(result, f"mount {source} at {path}")
        except BaseException:
            os.close(fd)
            raise
        self._mounted[path] = counters

    def directory_facts(self, path: str) -> DirectoryFacts:
        """What the guest holds of the directory that is mounted at `path`. Raises FileNotFoundError."""
        out = ffi.new("struct vfs_directory_facts *")
        check(lib.vfs_device_directory_facts(self.c, os.fsencode(path), out), f"directory at {path}")
        return DirectoryFacts(out.inodes, out.path_fds, out.open_files, out.mounts, out.mount_fds)

    def set_trace(self, path: str, trace: TraceLog | None) -> None:
        """Record the reads of the image at `path`; None: no longer, and the log before may be closed.

        Raises FileNotFoundError, OSError(EINVAL) for a directory.
        """
        log = ffi.NULL if trace is None else trace.c
        check(lib.vfs_device_set_trace(self.c, os.fsencode(path), log), f"trace of {path}")

    def umount(self, path: str) -> None:
        """Returns when no request uses the mount; may wait for reads that are under way.

        Raises FileNotFoundError.
        """
        check(lib.vfs_device_umount(self.c, os.fsencode(path)), f"umount {path}")
        self._mounted.pop(path, None)

    def serve_host(self) -> None:
        """Processes of this host will use it: called before the session begins."""
        lib.vfs_device_serve_host(self.c)

    def nodes(self) -> list[tuple[str, int]]:
        """The pseudo directories in the order of their making; with each the index of its mount, or 0."""
        path, index = ffi.new("char[]", _MAX_PATH), ffi.new("uint16_t *")
        found: list[tuple[str, int]] = []
        while lib.vfs_device_node(self.c, _FIRST_NODE + len(found), path, _MAX_PATH, index) == 0:
            found.append((os.fsdecode(ffi.string(path)), index[0]))
        return found

    def restore_nodes(self, paths: Iterable[str]) -> None:
        """Make the pseudo directories of a predecessor, as `nodes` had them; before anything is mounted."""
        for path in paths:
            check(lib.vfs_device_make_directory(self.c, os.fsencode(path)), f"directory {path}")

    def set_next_index(self, index: int) -> None:
        """What is mounted next gets this index, which is free, and so node ids that are known already."""
        lib.vfs_device_next_index(self.c, index)

    def set_mem_table(self, regions: Sequence[MemoryRegion]) -> None:
        """Replace guest memory. May wait for reads that are under way."""
        lib.vfs_device_pause(self.c)
        try:
            lib.vfs_device_clear_regions(self.c)
            for region in regions:
                self._add_region(region)
        finally:
            result = lib.vfs_device_resume(self.c)
        check(result, "a started ring lies outside the new memory table")

    def add_mem_region(self, region: MemoryRegion) -> None:
        """Add a region. May wait for reads that are under way."""
        lib.vfs_device_pause(self.c)
        try:
            self._add_region(region)
        finally:
            lib.vfs_device_resume(self.c)

    def remove_mem_region(self, gpa: int, size: int, user_addr: int) -> None:
        """Remove the region with exactly these values. May wait for reads that are under way."""
        lib.vfs_device_pause(self.c)
        try:
            check(
                lib.vfs_device_remove_region(self.c, gpa, size, user_addr),
                f"no memory region of {size} bytes at guest address {gpa:#x}",
            )
        finally:
            lib.vfs_device_resume(self.c)

    def _add_region(self, region: MemoryRegion) -> None:
        check(
            lib.vfs_device_add_region(self.c, *region),
            f"memory region of {region.size} bytes at guest address {region.gpa:#x}",
        )

    def set_features(self, *, indirect: bool, event_idx: bool) -> None:
        lib.vfs_device_set_features(self.c, indirect, event_idx)

    def set_vring_num(self, index: int, num: int) -> None:
        check(lib.vfs_vring_set_num(self.c, index, num), f"vring {index}: size {num}")

    def set_vring_addr(self, index: int, *, desc: int, used: int, avail: int) -> None:
        """Front-end user addresses of the three areas."""
        check(lib.vfs_vring_set_addr(self.c, index, desc, avail, used), f"vring {index}: its areas")

    def set_vring_base(self, index: int, base: int) -> None:
        check(lib.vfs_vring_set_base(self.c, index, base), f"vring {index}: base {base}")

    def set_vring_kick(self, index: int, fd: int | None) -> None:
        """Start the ring. Takes over `fd` when it returns; None means that the ring is polled."""
        check(lib.vfs_vring_set_kick(self.c, index, -1 if fd is None else fd), f"vring {index}: cannot start")

    def set_vring_call(self, index: int, fd: int | None) -> None:
        """Takes over `fd` when it returns."""
        check(lib.vfs_vring_set_call(self.c, index, -1 if fd is None else fd), f"vring {index}: call fd")

    def set_vring_err(self, index: int, fd: int | None) -> None:
        """Takes over `fd` when it returns."""
        check(lib.vfs_vring_set_err(self.c, index, -1 if fd is None else fd), f"vring {index}: err fd")

    def set_vring_enable(self, index: int, enabled: bool) -> None:
        check(lib.vfs_vring_set_enable(self.c, index, enabled), f"vring {index}: enable")

    def stop_vring(self, index: int, drain_ms: int) -> int:
        """Stop the ring and return its base. Waits up to `drain_ms` for parked requests, then fails
        them; completing them needs the event loop, so call this in a thread."""
        return check(lib.vfs_vring_stop(self.c, index, drain_ms), f"vring {index}: stop")

    def reset(self) -> None:
        """Back to power-on: rings stopped without waiting, memory unmapped, the FUSE session gone."""
        lib.vfs_device_reset(self.c)

    def statistics(self) -> dict[str, int]:
        """Sums over all queues of `struct vfs_statistics`."""
        total: dict[str, int] = {}
        one = ffi.new("struct vfs_statistics *")
        for index in range(self.queue_count):
            lib.vfs_device_statistics(self.c, index, one)
            for field, _ in ffi.typeof("struct vfs_statistics").fields:
                total[field] = total.get(field, 0) + getattr(one, field)
        return total

    def close(self) -> None:
        if not self.closed:
            lib.vfs_device_free(self._take())
