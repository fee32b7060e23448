"""Chunks in memory that the disk has no room for: bounded, first in first out, and not for long.

A chunk that was fetched is owed to whoever waits for it, whatever became of the disk. It lies in its blob's
area in memory until it is old, or until others need the room. What is given up is fetched again when it is
wanted.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from rafs.blob_meta import Chunk
from rafs.blob_space import BlobSpace
from rafs.codes import Buffer

#: how long a chunk stays that nobody needs the room of
KEEP_S = 20.0


class Spill:
    """Of all blobs of a cache directory; `limit` is in bytes. Thread-safe; blocks."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: deque[tuple[BlobSpace, int, int, float]] = deque()  # space, chunk, bytes, when
        self.bytes = 0

    def put(self, space: BlobSpace, chunk: Chunk, plain: Buffer) -> None:
        """Keep a chunk, between `begin` and `end` of its guard. Raises OSError where there is no room."""
        size = chunk.slot_end - chunk.uncompressed_offset
        with self._lock:
            self._drop(lambda when: self.bytes + size > self._limit)
            if self.bytes + size > self._limit:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            space.write_to_memory(chunk, plain)
            self._entries.append((space, chunk.chunk_idx, size, self._clock()))
            self.bytes += size

    def expire(self) -> None:
        """Give up what is old."""
        with self._lock:
            oldest = self._clock() - KEEP_S
            self._drop(lambda when: when < oldest)

    def forget(self, space: BlobSpace) -> None:
        """The blob is closed, and its memory goes with it."""
        with self._lock:
            self._entries = deque(entry for entry in self._entries if entry[0] is not space)
            self.bytes = sum(size for _, _, size, _ in self._entries)

    def _drop(self, is_due: Callable[[float], bool]) -> None:
        for _ in range(len(self._entries)):
            space, index, size, when = self._entries[0]
            if not is_due(when):
                break
            self._entries.popleft()
            if space.evict_from_memory([index]):
                self.bytes -= size
            else:  # it is being filled this moment
                self._entries.append((space, index, size, when))
