"""The room that one open blob takes: on the disk, and in memory for what the disk has no room for.

A `BlobSpace` joins what a governor has to know of a blob: its cache files, the data plane's chunk states,
its chunk records. It writes and evicts; whether, and what, is decided in `governor.py`. The files in memory
and the bitmap of visited chunks are memfds, so that a data plane in another process may map them.

Everything here but `end` blocks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable

from native.dataplane import Blob
from native.rafs_v6 import RAFS_CHUNK_MAP_HEADER_SIZE
from rafs.blob_meta import BlobMeta, Chunk
from rafs.cache import CachedBlob
from rafs.chunk_state import Run, runs_of
from rafs.codes import Buffer
from rafs.errors import RafsError
from rafs.fill_guard import FillGuard

PAGE_SIZE = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class MemoryFiles:
    """Of one blob: `data_fd` and `map_fd` of its area in memory, and `visited_fd`. Sealed in size."""

    def __init__(self, name: str, *, uncompressed_size: int, chunk_count: int) -> None:
        bitmap = (chunk_count + 7) // 8
        self.data_fd = self.map_fd = self.visited_fd = -1
        try:
            self.data_fd = _memfd(f"{name}.data", uncompressed_size)
            self.map_fd = _memfd(f"{name}.map", RAFS_CHUNK_MAP_HEADER_SIZE + bitmap)
            self.visited_fd = _memfd(f"{name}.visited", max(bitmap, 4096))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        for fd in (self.data_fd, self.map_fd, self.visited_fd):
            if fd >= 0:
                os.close(fd)
        self.data_fd = self.map_fd = self.visited_fd = -1


def _memfd(name: str, size: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)  # whoever maps it relies on its size
    return fd


class BlobSpace:
    """See the module. `memory` is taken over; `native` has been given its files."""

    def __init__(
        self, cache: CachedBlob, native: Blob, meta: BlobMeta, guard: FillGuard, memory: MemoryFiles
    ) -> None:
        self.cache = cache
        self.native = native
        self.meta = meta
        self.guard = guard
        self.memory = memory
        self._block_size = max(os.fstatvfs(cache.data_fd).f_frsize, 512)

    def close(self) -> None:
        self.memory.close()

    @property
    def disk_bytes(self) -> int:
        """What the data file takes on the disk now."""
        return os.fstat(self.cache.data_fd).st_blocks * 512

    def write_to_memory(self, chunk: Chunk, plain: Buffer) -> None:
        """Put a chunk into the area in memory, between `begin` and `end` of the guard. Raises OSError."""
        view, offset = memoryview(plain), chunk.uncompressed_offset
        while view:
            written = os.pwrite(self.memory.data_fd, view, offset)
            view, offset = view[written:], offset + written

    def evict_from_memory(self, chunk_idxs: Iterable[int]) -> set[int]:
        """Give up chunks in memory; returns those that are given up, all but those that are being filled."""
        taken = self.guard.take(chunk_idxs)
        try:
            victims = set(taken)
            runs = list(runs_of(sorted(victims)))
            holes = self._holes(runs, taken, PAGE_SIZE, self.native.is_ready)
            self.native.evict(runs, holes, in_memory=True)
        finally:
            self.guard.give_back(taken)
        return victims

    def evict_from_disk(self, chunk_idxs: Iterable[int]) -> set[int]:
        """Give up READY chunks on the disk; returns those that are given up. Raises RafsError."""
        taken = self.guard.take(chunk_idxs)
        try:
            victims = {index for index in taken if self.native.is_on_disk(index)}
            runs = list(runs_of(sorted(victims)))
            holes = self._holes(runs, taken, self._block_size, self.native.is_on_disk)
            self.cache.evict(self.native, runs, holes)
        finally:
            self.guard.give_back(taken)
        return victims

    def _holes(
        self, runs: list[Run], taken: set[int], block_size: int, is_alive: Callable[[int], bool]
    ) -> list[tuple[int, int]]:
        """The blocks that only these runs of chunks need: (offset, length).

        A block that is shared with a chunk that is READY, or being filled, is kept. Chunks that are neither
        are added to `taken`: nobody may fill them until the holes are there.
        """
        holes = []
        for first, count in runs:
            last = first + count - 1
            start, end = self.meta.chunk(first).uncompressed_offset, _end(self.meta.chunk(last))
            low, high = start - start % block_size, end + -end % block_size
            before, after = range(first - 1, -1, -1), range(last + 1, len(self.meta))
            if not self._take_dead(before, (low, start), taken, is_alive):
                low += block_size
            if not self._take_dead(after, (end, high), taken, is_alive):
                high -= block_size
            if high > low:
                holes.append((low, high - low))
        return holes

    def _take_dead(
        self,
        indices: range,
        where: tuple[int, int],
        taken: set[int],
        is_alive: Callable[[int], bool],
    ) -> bool:
        """Take a hole's neighbours that reach into a range of bytes; False when one is alive, or unknown."""
        for index in indices if where[0] < where[1] else ():
            try:
                chunk = self.meta.chunk(index)
            except RafsError:  # no image has told of it (RAFS v5), though another program may have it there
                return False
            if chunk.uncompressed_offset >= where[1] or _end(chunk) <= where[0]:
                break
            if index in taken:
                continue
            if not self.guard.take([index]):
                return False
            if is_alive(index):
                self.guard.give_back({index})
                return False
            taken.add(index)
        return True


def _end(chunk: Chunk) -> int:
    return chunk.uncompressed_offset + chunk.uncompressed_size
