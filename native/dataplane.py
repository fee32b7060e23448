"""The one typed wrapper round the C data plane (native/decl/dataplane.h).

Ownership: a wrapper object owns its C object and frees it in `close`; using it after is a
ValueError. What a Device serves (Image, Blobs, ChunkStore) must outlive it: close in the order
Device, Blobs, Image, ChunkStore. Calls that may wait release the interpreter's lock, as every cffi
call does; those that may wait *long* say so, and belong into a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from native._dataplane import ffi, lib
from native.records import Record

BLOB_RECORD = Record("rafs_v6_blob")
CHUNK_RECORD = Record("rafs_chunk_record")


class ImageError(Exception):
    """A bootstrap that cannot be read: malformed, or of a kind that we do not know."""


class MemoryRegion(NamedTuple):
    """One guest memory region: bytes `[mmap_offset, mmap_offset + size)` of `fd`."""

    gpa: int
    size: int
    user_addr: int
    mmap_offset: int
    fd: int


class Upcall(NamedTuple):
    """Chunks `[first_chunk, first_chunk + chunk_count)` of a blob are wanted and marked PENDING."""

    blob: int
    first_chunk: int
    chunk_count: int


class Inode(NamedTuple):
    """Attributes as stored; `size` in bytes, `mtime` in seconds, `rdev` in Linux's 32-bit coding."""

    nid: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_nsec: int
    nlink: int
    rdev: int


class Dirent(NamedTuple):
    name: bytes
    nid: int
    file_type: int


class Extent(NamedTuple):
    """`length` bytes of a file from `file_offset`. A chunk has `blob_index` >= 0; else `inline` has
    the bytes, or is None for a hole."""

    file_offset: int
    length: int
    blob_index: int
    chunk_index: int
    offset_in_chunk: int
    blob_offset: int
    inline: bytes | None


def check(result: int, what: str) -> int:
    """Return `result`. Raises OSError when it is a negative errno."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


class _Handle:
    """A C object that this wrapper owns."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    @property
    def c(self) -> Any:
        """The C pointer. Raises ValueError after `close`."""
        if self._pointer is None:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._pointer

    @property
    def closed(self) -> bool:
        return self._pointer is None

    def _take(self) -> Any:
        pointer, self._pointer = self._pointer, None
        return pointer


class ChunkStore(_Handle):
    """All blobs of the process and the upcall ring: the data plane pushes, Python takes."""

    def __init__(self) -> None:
        pointer = lib.vfs_store_new()
        if pointer == ffi.NULL:
            raise OSError(ffi.errno, f"chunk store: {os.strerror(ffi.errno)}")
        super().__init__(pointer)
        self._records = ffi.new("struct vfs_upcall[256]")

    @property
    def event_fd(self) -> int:
        """Readable when there are upcalls to take; the store owns it."""
        return int(lib.vfs_store_event_fd(self.c))

    def take(self, limit: int = 256) -> list[Upcall]:
        """Take up to `limit` (at most 256) upcalls. `event_fd` stays readable while there are more."""
        count = lib.vfs_store_take(self.c, self._records, min(limit, 256))
        return [Upcall(r.blob, r.first_chunk, r.chunk_count) for r in self._records[0:count]]

    def close(self) -> None:
        if not self.closed:
            lib.vfs_store_free(self._take())


class Blob(_Handle):
    """A data blob's cache file and chunk states (native/c/blob.h). The fds stay the caller's."""

    def __init__(
        self,
        store: ChunkStore,
        *,
        data_fd: int,
        chunk_map_fd: int,
        meta_fd: int,
        chunk_count: int,
        uncompressed_size: int,
    ) -> None:
        out = ffi.new("struct blob **")
        check(
            lib.vfs_blob_open(store.c, data_fd, chunk_map_fd, meta_fd, chunk_count, uncompressed_size, out),
            "cannot map the blob's cache files",
        )
        super().__init__(out[0])
        self._store = store
        self.handle = int(lib.vfs_blob_handle(out[0]))
        self.chunk_count = chunk_count

    def is_ready(self, chunk: int) -> bool:
        return bool(lib.vfs_blob_is_ready(self.c, chunk))

    def ready_count(self) -> int:
        return int(lib.vfs_blob_ready_count(self.c))

    def claim(self, first: int, count: int) -> list[tuple[int, int]]:
        """Win ABSENT chunks for the caller; returns them as (first, count) runs."""
        runs: list[tuple[int, int]] = []
        for chunk in range(first, first + count):
            if lib.vfs_blob_claim(self.c, chunk):
                if runs and sum(runs[-1]) == chunk:
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((chunk, 1))
        return runs

    def complete(self, first: int, count: int) -> None:
        """The chunks are in the data file: mark them READY and wake who waits."""
        lib.vfs_blob_complete(self._store.c, self.c, first, count)

    def fail(self, first: int, count: int) -> None:
        """The chunks could not be had: ABSENT again, and who waits is answered EIO."""
        lib.vfs_blob_fail(self._store.c, self.c, first, count)

    def forget(self, first: int, count: int) -> None:
        """READY chunks become ABSENT. Only before a device serves the blob."""
        lib.vfs_blob_forget(self.c, first, count)

    def close(self) -> None:
        if not self.closed:
            lib.vfs_blob_close(self._store.c, self._take())


class Image(_Handle):
    """A RAFS v6 bootstrap, read by the C reader (native/c/rafs_image.h).

    Raises ImageError when `path` is no such thing; methods raise OSError: EUCLEAN where the image
    lies, EOPNOTSUPP where it has something unknown, ENOTDIR, ENOENT.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        out = ffi.new("struct vfs_image **")
        why = ffi.new("char[256]")
        with Path(path).open("rb") as file:
            if lib.vfs_image_open(file.fileno(), out, why, 256) < 0:
                raise ImageError(f"{path}: {ffi.string(why).decode(errors='replace')}")
        super().__init__(out[0])
        facts = ffi.new("struct vfs_image_facts *")
        lib.vfs_image_facts(self.c, facts)
        self.size: int = facts.size
        self.root_nid: int = facts.root_nid
        self.inode_count: int = facts.inos
        self.flags: int = facts.flags
        self.chunk_size: int = facts.chunk_size
        self.blob_count: int = facts.blob_count
        self.chunk_record_count: int = facts.chunk_table_count
        self._prefetch_count: int = facts.prefetch_count

    def blob_record(self, index: int) -> Any:
        """Entry `index` of the blob table, a parsed `struct rafs_v6_blob`."""
        pointer = lib.vfs_image_blob_record(self.c, index)
        if pointer == ffi.NULL:
            raise IndexError(index)
        return BLOB_RECORD.parse(bytes(ffi.buffer(pointer, BLOB_RECORD.size)))

    def chunk_record(self, index: int) -> Any:
        """Entry `index` of the chunk table, a parsed `struct rafs_chunk_record`."""
        pointer = lib.vfs_image_chunk_record(self.c, index)
        if pointer == ffi.NULL:
            raise IndexError(index)
        return CHUNK_RECORD.parse(bytes(ffi.buffer(pointer, CHUNK_RECORD.size)))

    def prefetch_nids(self) -> list[int]:
        """Nids of the prefetch table, in order, up to the first 0."""
        pointer = lib.vfs_image_prefetch_table(self.c)
        table = memoryview(bytes(ffi.buffer(pointer, 4 * self._prefetch_count))).cast("I").tolist()
        return table[: table.index(0)] if 0 in table else table

    def inode(self, nid: int) -> Inode:
        out = ffi.new("struct vfs_inode *")
        check(lib.vfs_image_inode(self.c, nid, out), f"nid {nid}")
        return Inode(
            nid, out.mode, out.uid, out.gid, out.size, out.mtime, out.mtime_nsec, out.nlink, out.rdev
        )

    def lookup(self, nid: int, name: bytes) -> int:
        """Nid of `name` in directory `nid`. Raises FileNotFoundError."""
        out = ffi.new("uint64_t *")
        check(lib.vfs_image_lookup(self.c, nid, name, len(name), out), f"nid {nid}: {name!r}")
        return int(out[0])

    def readdir(self, nid: int) -> Iterator[Dirent]:
        """Entries of directory `nid` in stored order, "." and ".." included."""
        entry, cookie = ffi.new("struct vfs_dirent *"), 0
        while check(lib.vfs_image_dirent(self.c, nid, cookie, entry), f"directory nid {nid}"):
            yield Dirent(bytes(ffi.buffer(entry.name, entry.name_length)), entry.nid, entry.file_type)
            cookie = entry.next

    def xattrs(self, nid: int) -> dict[bytes, bytes]:
        xattr, offset, found = ffi.new("struct vfs_xattr *"), 0, {}
        while check(lib.vfs_image_xattr(self.c, nid, offset, xattr), f"attributes of nid {nid}"):
            name = ffi.string(xattr.prefix) + bytes(ffi.buffer(xattr.suffix, xattr.suffix_length))
            found[name] = bytes(ffi.buffer(xattr.value, xattr.value_size))
            offset = xattr.next
        return found

    def extents(self, nid: int, offset: int, length: int) -> Iterator[Extent]:
        """The pieces of `[offset, offset + length)` of a file or link, which must lie inside it."""
        out, end = ffi.new("struct vfs_extent *"), offset + length
        while offset < end:
            check(lib.vfs_image_map(self.c, nid, offset, end - offset, out), f"nid {nid} at {offset}")
            is_chunk = out.kind == lib.VFS_EXTENT_CHUNK
            inline = (
                bytes(ffi.buffer(out.inline_data, out.length)) if out.kind == lib.VFS_EXTENT_INLINE else None
            )
            yield Extent(
                offset,
                out.length,
                out.blob_index if is_chunk else -1,
                out.chunk_index,
                out.offset_in_chunk,
                out.blob_offset,
                inline,
            )
            offset += out.length

    def readlink(self, nid: int) -> bytes:
        """Target of symlink `nid`."""
        return b"".join(extent.inline or b"" for extent in self.extents(nid, 0, self.inode(nid).size))

    def close(self) -> None:
        if not self.closed:
            lib.vfs_image_close(self._take())


class Device(_Handle):
    """The virtio-fs device (native/c/device.c): queue 0 is hiprio, 1.. are request queues.

    `shared` is for sessions with host directories or mounts that come and go; without, guests may
    cache everything for ever. One caller at a time. Errors are OSError; EINVAL names a request that makes no sense, EFAULT
    addresses outside guest memory.
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
        self.queue_count = num_request_queues + 1
        pointer = lib.vfs_device_new(
            store.c, self.queue_count, shared, miss_timeout_ms * 1_000_000, poll_us * 1000
        )
        if pointer == ffi.NULL:
            raise OSError(
                ffi.errno, f"device with {num_request_queues} request queues: {os.strerror(ffi.errno)}"
            )
        super().__init__(pointer)
        self._mounted: dict[str, object] = {}  # what C points into, by path

    def mount_image(self, path: str, image: Image, blobs: Sequence[Blob]) -> None:
        """Mount `image` at an absolute path; `blobs` in the order of its blob table.

        At "/" it is all that is served. Raises FileExistsError, NotADirectoryError.
        """
        if len(blobs) != image.blob_count:
            raise ValueError(f"{len(blobs)} blobs for an image with {image.blob_count}")
        pointers = ffi.new("struct blob *[]", [blob.c for blob in blobs])
        check(lib.vfs_device_mount_image(self.c, os.fsencode(path), image.c, pointers), f"mount {path}")
        self._mounted[path] = (image, list(blobs))

    def umount(self, path: str) -> None:
        """Returns when no request uses the mount; may wait for reads that are under way.

        Raises FileNotFoundError.
        """
        check(lib.vfs_device_umount(self.c, os.fsencode(path)), f"umount {path}")
        self._mounted.pop(path, None)

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
