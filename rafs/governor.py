"""Keeps a cache directory within its limits, and serves on when the disk is full.

    write     a verified chunk to the disk, after room was made for it; else to memory (`spill.py`)
    make room remove blobs that nobody uses, least recently used first; then evict chunks of those that are
              open, chosen by `eviction.py`

What counts is what the file system says (`accounts.py`): the blocks of every file of the directory, metadata
included, and free space.

A governor needs to own the directory (`cache_dir.py`) to evict chunks. Without limits it owns nothing: it
then only removes unused blobs, and uses memory, when the disk is full.

Methods block and are called in threads, if they do not say that they do not. Locks, in this order:
`_evicting` for an eviction as a whole, a blob's guard and files, `_lock` for the figures and the policy.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakValueDictionary

from native.dataplane import Blob
from rafs.accounts import Accounts
from rafs.blob_meta import BlobMeta, Chunk
from rafs.blob_space import BlobSpace, MemoryFiles
from rafs.cache import CachedBlob
from rafs.codes import Buffer
from rafs.dedup import Dedup, Found
from rafs.errors import CacheError, CacheFull, cache_error
from rafs.eviction import EvictionPolicy
from rafs.fill_guard import FillGuard
from rafs.inventory import remove_blob
from rafs.ledger import Ledger
from rafs.limits import NO_LIMITS, CacheLimits
from rafs.spill import Spill

log = logging.getLogger(__name__)

COUNT_INTERVAL_S, LEDGER_INTERVAL_S = 1.0, 60.0
#: evicted beyond what is needed, so that evictions are few: a part of the quota, within these
_MIN_BATCH, _MAX_BATCH = 256 << 10, 16 << 20
#: a chunk's number in the keys of the policy
_CHUNK_BITS = 24
_TRIES = 3
#: chunks that are looked at before others get their turn
_STEP = 4096


class Governor:
    """Of one cache directory and process; `is_owner` says that it may evict. See the module."""

    def __init__(self, directory: Path, limits: CacheLimits = NO_LIMITS, *, is_owner: bool = False) -> None:
        self.limits = limits
        self._directory = directory
        self._is_owner = is_owner
        self._lock = threading.Lock()
        self._evicting = threading.Lock()
        self._accounts = Accounts(directory, limits)
        self._policy = EvictionPolicy()
        self._spill = Spill(limits.memory)
        self.dedup = Dedup(directory, self.guard_of) if limits.dedup else None
        self._clones_in_vain = 0
        self._guards: WeakValueDictionary[str, FillGuard] = WeakValueDictionary()
        self._spaces: dict[int, BlobSpace] = {}  # by the number in the policy's keys
        self._numbers: dict[BlobSpace, int] = {}
        self._next_number = 0
        self._last_count = 0.0
        self._counters: Counter[str] = Counter()
        self._said: dict[str, float] = {}
        self._ledger = Ledger(directory) if is_owner else None
        self._noted = 0.0

    # blobs

    def open(self, cache: CachedBlob, native: Blob, meta: BlobMeta) -> BlobSpace:
        """Look after a blob; before it is served, and `adopt` follows. Raises CacheError. Does not block."""
        record = meta.record
        try:
            memory = MemoryFiles(
                f"vhostfs-{record.blob_id[:12]}",
                uncompressed_size=record.uncompressed_size,
                chunk_count=record.chunk_count,
            )
            try:
                native.add_memory(memory.data_fd, memory.map_fd)
                native.add_visited(memory.visited_fd)
            except OSError:
                memory.close()
                raise
        except OSError as error:
            raise cache_error(
                f"no memory for what the disk may not hold of {record.blob_id}", error
            ) from error
        guard = self.guard_of(record.blob_id)
        with self._lock:
            space = BlobSpace(cache, native, meta, guard, memory)
            self._spaces[self._next_number], self._numbers[space] = space, self._next_number
            self._next_number += 1
        self._accounts.open(space)
        return space

    def adopt(self, space: BlobSpace) -> None:
        """Take over what is READY of a blob since before it was opened. Raises CacheError."""
        count = space.meta.record.chunk_count
        size = max(space.meta.record.uncompressed_size // max(count, 1), 1)
        for start in range(0, count if self._is_owner else 0, _STEP):
            described = space.meta.described(start, min(_STEP, count - start))
            with self._lock:
                number = self._numbers[space]
                for first, length in described:
                    for index in range(first, first + length):
                        if space.native.is_on_disk(index):
                            self._policy.add_old(number << _CHUNK_BITS | index, size)
        self._accounts.count()

    def close(self, space: BlobSpace) -> None:
        """The blob is about to be closed; nothing of it is being fetched any more."""
        with self._evicting:
            self._spill.forget(space)
            with self._lock:
                del self._spaces[self._numbers.pop(space)]
            self._accounts.close(space)
        space.close()

    def end(self) -> None:
        """All blobs are closed."""
        self.keep_ledger()
        if self.dedup is not None:
            self.dedup.close()

    # writing

    def write(self, space: BlobSpace, chunk: Chunk, plain: Buffer, found: Found | None = None) -> bool:
        """Put a chunk where there is room for it, between `begin` and `end` of its guard: True: on the disk.

        `found`: where it lies already; then blocks are shared if the file system can do that. Raises what
        the disk said when there is none in memory either (CacheError).
        """
        size = chunk.slot_end - chunk.uncompressed_offset
        try:
            self._write_to_disk(space, chunk, plain, size, found)
        except CacheError as error:
            self._say("spill", "%s; chunks are served from memory", error)
            try:
                self._spill.put(space, chunk, plain)
            except OSError:
                raise error from None
            self.add("spilled_chunks", 1)
            self.add("spilled_bytes", chunk.uncompressed_size)
            return False
        return True

    def _write_to_disk(
        self, space: BlobSpace, chunk: Chunk, plain: Buffer, size: int, found: Found | None
    ) -> None:
        for attempt in range(_TRIES):
            self._reserve(size)
            try:
                if found is not None and self._clone(space, chunk, found):
                    self.add("cloned_bytes", chunk.uncompressed_size)
                else:
                    space.cache.write(chunk, plain)
                return
            except CacheFull:
                if attempt == _TRIES - 1 or not self.make_room(size):
                    raise
            finally:
                self._accounts.settle(space, size)

    def _clone(self, space: BlobSpace, chunk: Chunk, found: Found) -> bool:
        """One file system holds all of a directory: once it could not, it is asked no more."""
        if (
            self._clones_in_vain >= _TRIES or space.meta.record.fs_version != 6
        ):  # v5 may pack chunks in a block
            return False
        is_done = space.cache.clone(chunk, found.fd, found.offset)
        self._clones_in_vain = 0 if is_done else self._clones_in_vain + 1
        return is_done

    def guard_of(self, blob_id: str) -> FillGuard:
        """The guard of a blob, for as long as it is kept, whoever opens the blob meanwhile."""
        with self._lock:
            return self._guards.setdefault(blob_id, FillGuard())

    def _reserve(self, size: int) -> None:
        """Have room for `size` bytes within the limits. Raises CacheFull."""
        for _ in range(_TRIES):
            if self._accounts.reserve(size):
                return
            if not self._get_within_limits(size):
                break
        raise CacheFull(f"{self._directory}: the limits of the cache leave no room")

    def discard(self, space: BlobSpace, chunk: Chunk) -> bool:
        """A chunk on the disk is corrupt: nobody reads it from now on. False: it is being filled just now.

        Raises CacheError.
        """
        index = chunk.chunk_idx
        with self._evicting:
            if space not in self._numbers:
                return False
            if self._is_owner:
                return bool(space.evict_from_disk([index]))
            # others may fill it at any time, so no hole; and what a page holds is not what the disk has
            offset, size = chunk.uncompressed_offset, chunk.uncompressed_size
            os.posix_fadvise(space.cache.data_fd, offset, size, os.POSIX_FADV_DONTNEED)
            space.native.forget(index, 1)
            return True

    def add(self, counter: str, count: int) -> None:
        """Count one of COUNTERS. Hardly blocks."""
        with self._lock:
            self._counters[counter] += count

    def note(self, size: int) -> None:
        """Metadata was written. The next count knows; this is for the time until then. Hardly blocks."""
        self._accounts.note(size)

    def completed(self, space: BlobSpace, chunks: Iterable[Chunk]) -> None:
        """Chunks are READY on the disk: they may be evicted from now on. Hardly blocks."""
        if self._is_owner:
            with self._lock:
                number = self._numbers[space]
                for chunk in chunks:
                    self._policy.add(
                        number << _CHUNK_BITS | chunk.chunk_idx, chunk.slot_end - chunk.uncompressed_offset
                    )

    # limits

    def tend(self) -> None:
        """To be called about every second: count, and get back within the limits."""
        self._spill.expire()
        self.keep_ledger(LEDGER_INTERVAL_S)
        with self._lock:
            now = time.monotonic()
            is_due = now - self._last_count >= COUNT_INTERVAL_S * 0.9
            if is_due:
                self._last_count = now
        if not is_due:
            return
        try:
            self._accounts.count()
            if not self._get_within_limits(0):
                self._say("limits", "%s: over its limits, and there is nothing to give up", self._directory)
        except CacheError as error:
            self._say("tend", "%s", error)

    def keep_ledger(self, interval_s: float = 0.0) -> None:
        """Note what was counted, unless it was done so many seconds ago."""
        now = time.monotonic()
        with self._lock:
            counters = {name: value for name, value in self._counters.items() if value}
            if self._ledger is None or now - self._noted < interval_s:
                return
            self._noted = now
        self._ledger.note(counters)

    def make_room(self, wanted: int) -> int:
        """Give up `wanted` bytes and some more; returns how many were freed, 0 when there is nothing."""
        with self._evicting:
            return self._give_up(wanted)

    def _get_within_limits(self, more: int) -> bool:
        """Give up what is too much if `more` is to come; False when there is nothing to give up."""
        with self._evicting:
            excess = self._accounts.excess(more)  # another thread may have done it while we waited
            return excess <= 0 or self._give_up(excess) > 0

    def _give_up(self, wanted: int) -> int:
        batch = min(max((self.limits.quota or _MAX_BATCH << 6) >> 6, _MIN_BATCH), _MAX_BATCH)
        try:
            freed = self._remove_unused(wanted)
            if freed < wanted and self._is_owner:
                freed += self._evict(wanted - freed + batch)
            return freed
        except CacheError as error:
            self._say("evict", "%s", error)
            return 0

    def _remove_unused(self, wanted: int) -> int:
        freed = 0
        found = self._accounts.inventory or self._accounts.count()
        with self._lock:
            in_use = {space.cache.record.blob_id for space in self._spaces.values()}
            unused = [blob for blob in found.blobs.values() if blob.blob_id not in in_use]
        for blob in sorted(unused, key=lambda blob: blob.last_used):
            if freed >= wanted:
                break
            if remove_blob(self._directory, blob.blob_id):
                self.add("removed_blobs", 1)
                self.add("removed_bytes", blob.bytes)
                freed += blob.bytes
        if freed:
            self._accounts.count()
        return freed

    def _evict(self, wanted: int) -> int:
        freed = 0
        while freed < wanted:
            victims: defaultdict[BlobSpace, list[int]] = defaultdict(list)
            sizes: dict[tuple[BlobSpace, int], int] = {}
            with self._lock:
                for key, size in self._policy.victims(wanted - freed, self._look):
                    space, index = self._spaces[key >> _CHUNK_BITS], key & (1 << _CHUNK_BITS) - 1
                    victims[space].append(index)
                    sizes[space, index] = size
            if not victims:
                break
            progress = 0
            for space, indices in victims.items():
                progress += self._evict_from(space, indices, sizes)
            if not progress:  # all of them are being filled this moment
                break
            freed += progress
        return freed

    def _evict_from(
        self, space: BlobSpace, indices: list[int], sizes: dict[tuple[BlobSpace, int], int]
    ) -> int:
        gone = space.evict_from_disk(indices)
        freed = sum(chunk.slot_end - chunk.uncompressed_offset for chunk in map(space.meta.chunk, gone))
        self._accounts.ask(space)
        with self._lock:
            for index in indices:
                if index not in gone and space.native.is_on_disk(index):
                    self._policy.add_old(self._numbers[space] << _CHUNK_BITS | index, sizes[space, index])
        self.add("evicted_chunks", len(gone))
        self.add("evicted_bytes", freed)
        return freed

    def _look(self, key: int) -> bool | None:
        space = self._spaces.get(key >> _CHUNK_BITS)
        index = key & (1 << _CHUNK_BITS) - 1
        if space is None or not space.native.is_on_disk(index):
            return None
        return space.native.was_visited(index)

    # seeing it

    def statistics(self) -> dict[str, int]:
        """Bytes in the cache and in memory now, and counters since the start. Hardly blocks."""
        with self._lock:
            counters = {name: self._counters[name] for name in COUNTERS}
        return {"cached_bytes": self._accounts.bytes, "memory_bytes": self._spill.bytes} | counters

    def _say(self, topic: str, text: str, *arguments: object) -> None:
        """In the log, once a minute for each topic."""
        now = time.monotonic()
        if now - self._said.get(topic, -60.0) >= 60.0:
            self._said[topic] = now
            log.warning(text, *arguments)


COUNTERS = (
    "evicted_chunks",
    "evicted_bytes",
    "removed_blobs",
    "removed_bytes",
    "spilled_chunks",
    "spilled_bytes",
    "scrubbed_bytes",
    "corrupt_chunks",
    "healed_chunks",
    "deduplicated_chunks",
    "deduplicated_bytes",
    "saved_bytes",
    "cloned_bytes",
)
