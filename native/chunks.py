"""Blobs, their chunk states, and the upcall ring: native/c/blob.h and upcall.h."""

from __future__ import annotations

import os
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
