"""Which chunks a full cache gives up: S3-FIFO with a time in which reads do not count. Decides only.

Chunks are keys (any 64-bit number) with a size in bytes. They pass through first-in-first-out queues:

    new ---> fresh ---> probation --not read--> evicted, remembered as a ghost
                            \\------read-------> main --not read since--> evicted
    new, but a ghost -------------------------> main

- *Scans do no harm.* What is read once, front to back, goes through fresh and probation, a tenth of the
  cache, and out. A chunk is larger than a read, so a scan reads each several times at once: reads do not
  count before the chunk has left fresh.
- *What is read again stays*: out of probation into main, where each read earns one more turn. What came back
  soon after its eviction goes to main at once.
- *A new chunk is not given up* while there are others: whoever waits for it finds it.

Whether a chunk was read is a bit that readers set and `victims` clears, asked for through `look`. A chunk
that is gone for another reason needs no message: `look` says so when its turn comes. 12 bytes a chunk.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

#: at least this much of a small cache is for new chunks: what a few readers are about to read
FRESH_BYTES = 8 << 20
#: how many evicted chunks are remembered
MAX_GHOSTS = 1 << 16

#: whether a chunk was read since it was last asked about; None: it is not in the cache any more
Look = Callable[[int], bool | None]


class Fifo:
    """Keys and their sizes, first in first out; `bytes` is the sum of the sizes."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._sizes = array("I")
        self._head = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._keys) - self._head

    def push(self, key: int, size: int) -> None:
        self._keys.append(key)
        self._sizes.append(size)
        self.bytes += size

    def pop(self) -> tuple[int, int]:
        """Raises IndexError when it is empty."""
        key, size = self._keys[self._head], self._sizes[self._head]
        self._head += 1
        self.bytes -= size
        if self._head > 1024 and self._head * 2 > len(self._keys):
            del self._keys[: self._head]
            del self._sizes[: self._head]
            self._head = 0
        return key, size


class EvictionPolicy:
    """See the module. Not thread-safe."""

    def __init__(self, *, fresh_bytes: int = FRESH_BYTES, max_ghosts: int = MAX_GHOSTS) -> None:
        self._fresh_bytes = fresh_bytes
        self._max_ghosts = max_ghosts
        self._fresh, self._probation, self._main = Fifo(), Fifo(), Fifo()
        self._ghosts: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._fresh) + len(self._probation) + len(self._main)

    @property
    def bytes(self) -> int:
        """Of all chunks that it knows, those included whose turn will tell that they are gone."""
        return self._fresh.bytes + self._probation.bytes + self._main.bytes

    def add(self, key: int, size: int) -> None:
        """A chunk was put into the cache."""
        if key in self._ghosts:
            del self._ghosts[key]
            self._main.push(key, size)
        else:
            self._fresh.push(key, size)

    def add_old(self, key: int, size: int) -> None:
        """A chunk lies in the cache since before we looked, or could not be evicted when it was its turn."""
        self._main.push(key, size)

    def victims(self, wanted: int, look: Look) -> list[tuple[int, int]]:
        """Give up chunks of `wanted` bytes together, or all: (key, size), which it does not know any more."""
        found: list[tuple[int, int]] = []
        freed = 0
        #: with readers that are quicker than we are, the last turn must not last for ever
        chances = len(self)
        while freed < wanted and len(self):
            self._let_age(look)
            if not len(self):
                break
            queue = self._queue_in_turn()
            key, size = queue.pop()
            was_read = look(key)
            if was_read is None:
                continue
            if was_read and chances > 0 and queue is not self._fresh:
                chances -= 1
                self._main.push(key, size)
                continue
            if queue is self._probation:
                self._remember(key)
            found.append((key, size))
            freed += size
        return found

    @property
    def _share(self) -> int:
        """What fresh and probation may have together."""
        return max(self.bytes // 10, min(self._fresh_bytes, self.bytes // 2))

    def _let_age(self, look: Look) -> None:
        limit = self._share // 2
        while self._fresh.bytes > limit:
            key, size = self._fresh.pop()
            if look(key) is not None:  # and what it was read so far is forgotten
                self._probation.push(key, size)

    def _queue_in_turn(self) -> Fifo:
        if self._probation and (not self._main or self._fresh.bytes + self._probation.bytes >= self._share):
            return self._probation
        return self._main or self._probation or self._fresh

    def _remember(self, key: int) -> None:
        self._ghosts[key] = None
        if len(self._ghosts) > self._max_ghosts:
            del self._ghosts[next(iter(self._ghosts))]
