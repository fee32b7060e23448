"""Chunks that another process fetches: both ends of what joins a worker and its agent (native/c/link.h)."""

from __future__ import annotations

import os
from typing import NamedTuple

from native._dataplane import ffi, lib
from native.chunks import Blob, ChunkStore, Upcall
from native.handle import Handle, check


class RingFds(NamedTuple):
    """What the agent needs of a link: memory and event of the upcall ring, memory of the completion ring."""

    upcalls: int
    event: int
    completions: int


class ChunkLink(Handle):
    """The worker's end. Blobs that `serve` was called for are fetched by the agent that has `fds`.

    A thread in C takes what the agent completes. Close it before the store; blobs may be closed after it.
    """

    def __init__(self, store: ChunkStore) -> None:
        pointer = lib.vfs_link_new(store.c)
        if pointer == ffi.NULL:
            raise OSError(ffi.errno, f"link to an agent: {os.strerror(ffi.errno)}")
        super().__init__(pointer)
        self._store = store

    @property
    def fds(self) -> RingFds:
        """The rings' descriptors, which stay the link's."""
        return RingFds(
            lib.vfs_link_upcall_fd(self.c), lib.vfs_link_event_fd(self.c), lib.vfs_link_completion_fd(self.c)
        )

    def new_handle(self) -> int:
        """A handle by which the agent may know a blob."""
        return int(lib.vfs_store_new_handle(self._store.c))

    def serve(self, blob: Blob, handle: int) -> None:
        """Have the chunks of `blob` fetched by the agent. Before a device serves it."""
        lib.vfs_blob_set_link(blob.c, self.c, handle)
        blob.handle = handle

    def renew(self) -> None:
        """Make new rings, for the agent's successor. Raises OSError; then try again."""
        check(lib.vfs_link_renew(self.c), "cannot make rings for an agent")

    def ask_again(self) -> bool:
        """Ask for what is PENDING once more. False: the ring is full; call again to go on."""
        return bool(lib.vfs_link_ask_again(self.c))

    def close(self) -> None:
        if not self.closed:
            lib.vfs_link_close(self._take())


class WorkerRings(Handle):
    """The agent's end: upcalls of one worker, and the way back. The worker may write anything into both."""

    def __init__(self, fds: RingFds) -> None:
        """Raises OSError: EINVAL for what are no rings. The descriptors stay the caller's."""
        out = ffi.new("struct worker_rings **")
        check(lib.vfs_rings_adopt(fds.upcalls, fds.event, fds.completions, out), "not the rings of a worker")
        super().__init__(out[0])
        self._records = ffi.new("struct vfs_upcall[256]")
        self._more = ffi.new("int *")

    @property
    def event_fd(self) -> int:
        """Readable when there are upcalls, unless `take` has said that there are more."""
        return int(lib.vfs_rings_event_fd(self.c))

    def take(self, limit: int = 256) -> tuple[list[Upcall], bool]:
        """Take up to `limit` (at most 256) upcalls, unchecked; True: there are more.

        Raises OSError (EPROTO) when the ring makes no sense.
        """
        taken = lib.vfs_rings_take(self.c, self._records, min(limit, 256), self._more)
        check(taken, "the worker's upcall ring")
        upcalls = [Upcall(r.blob, r.first_chunk, r.chunk_count) for r in self._records[0:taken]]
        return upcalls, bool(self._more[0])

    def room(self) -> int:
        """How many completions can be pushed."""
        return int(lib.vfs_rings_room(self.c))

    def push(self, handle: int, first: int, count: int, *, has_failed: bool) -> bool:
        """Tell the worker to look at chunks that it asked for. False: there is no room."""
        return int(lib.vfs_rings_push(self.c, handle, first, count, has_failed)) == 0

    def close(self) -> None:
        if not self.closed:
            lib.vfs_rings_free(self._take())
