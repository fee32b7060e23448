"""Blobs, their chunk states, and the upcall ring: native/c/blob.h and upcall.h."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from native._dataplane import ffi, lib
from native.handle import Handle, check


class Upcall(NamedTuple):
    """Chunks `[first_chunk, first_chunk + chunk_count)` of a blob are wanted and marked PENDING."""

    blob: int
    first_chunk: int
    chunk_count: int


class ChunkStore(Handle):
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


class Blob(Handle):
    """A data blob's cache file and chunk states (native/c/blob.h). The fds stay the caller's.

    `chunk_map_fd` may be open for reading only where another process completes the chunks.
    """

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

    def add_memory(self, data_fd: int, map_fd: int) -> None:
        """Give it an area in memory, for what the disk has no room for, instead of the one it has."""
        check(lib.vfs_blob_add_memory(self.c, data_fd, map_fd), "cannot map the blob's area in memory")

    def add_visited(self, fd: int) -> None:
        """Have every chunk that is read marked in this bitmap, and in no other any more."""
        check(lib.vfs_blob_add_visited(self.c, fd), "cannot map the blob's bitmap of visited chunks")

    def is_ready(self, chunk: int) -> bool:
        return bool(lib.vfs_blob_is_ready(self.c, chunk))

    def is_on_disk(self, chunk: int) -> bool:
        """Whether the chunk is READY in the cache file, and not only in memory."""
        return bool(lib.vfs_blob_is_on_disk(self.c, chunk))

    def is_visited(self, chunk: int) -> bool:
        """The same, without forgetting it. False where nobody keeps account (`add_visited`)."""
        return bool(lib.vfs_blob_is_visited(self.c, chunk))

    def visited_count(self) -> int:
        """How many chunks `is_visited`."""
        return int(lib.vfs_blob_visited_count(self.c))

    def was_visited(self, chunk: int) -> bool:
        """Whether it was read since this was asked last."""
        return bool(lib.vfs_blob_was_visited(self.c, chunk))

    @property
    def generation(self) -> int:
        """Rises with every eviction from the disk: what was read meanwhile may be zeros."""
        return int(lib.vfs_blob_generation(self.c))

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

    def complete(self, first: int, count: int, *, in_memory: bool = False) -> None:
        """The chunks are in the data file: mark them READY and wake who waits."""
        complete = lib.vfs_blob_complete_in_memory if in_memory else lib.vfs_blob_complete
        complete(self._store.c, self.c, first, count)

    def unclaim(self, first: int, count: int) -> None:
        """Others may have completed the chunks: who waits looks again, and asks for what is not there."""
        lib.vfs_blob_unclaim(self._store.c, self.c, first, count)

    def fail(self, first: int, count: int) -> None:
        """The chunks could not be had: ABSENT again, and who waits is answered EIO."""
        lib.vfs_blob_fail(self._store.c, self.c, first, count)

    def evict(
        self,
        runs: Sequence[tuple[int, int]],
        holes: Sequence[tuple[int, int]],
        *,
        in_memory: bool = False,
    ) -> None:
        """READY chunks, (first, count), become ABSENT; then holes are punched, (offset, length) in bytes.

        No reader ever takes zeros for data (native/c/chunk_area.h). The caller knows that nobody fills these
        chunks, or others that lie in the holes. Raises OSError: then not all holes are there, but the chunks
        are gone.
        """
        c_runs = ffi.new("struct vfs_chunk_run[]", list(runs))
        c_holes = ffi.new("struct vfs_byte_range[]", list(holes))
        status = lib.vfs_blob_evict(self.c, in_memory, c_runs, len(runs), c_holes, len(holes))
        check(status, "cannot punch holes into the cache file")

    def forget(self, first: int, count: int) -> None:
        """READY chunks become ABSENT. Only before a device serves the blob."""
        lib.vfs_blob_forget(self.c, first, count)

    def close(self) -> None:
        if not self.closed:
            lib.vfs_blob_close(self._store.c, self._take())
