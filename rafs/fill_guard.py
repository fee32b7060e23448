"""Who may touch a blob's data file where: no chunk is filled and evicted at once.

An eviction clears READY bits, and punches holes some time later. A fill that came in between would set a
READY bit over a hole. So each chunk is filled under `begin` and `end`, and evicted under `take` and
`give_back`: a fill waits for an eviction, and an eviction leaves alone what is being filled. One guard serves
all that this process has open of one blob; there is one process that evicts.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable


class FillGuard:
    """Of the chunks of one blob, by index. Thread-safe; only `begin` waits, and only for an eviction."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._filled: Counter[int] = Counter()
        self._evicted: set[int] = set()

    def begin(self, chunk_idx: int) -> None:
        """What lies in the chunk's place is about to be written, or believed."""
        with self._changed:
            while chunk_idx in self._evicted:
                self._changed.wait()
            self._filled[chunk_idx] += 1

    def end(self, chunk_idxs: Iterable[int]) -> None:
        """Its READY bit is set, or will not be."""
        with self._changed:
            for index in chunk_idxs:
                self._filled[index] -= 1
                if not self._filled[index]:
                    del self._filled[index]

    def take(self, chunk_idxs: Iterable[int]) -> set[int]:
        """Take chunks to evict them; returns those that nobody fills or evicts now."""
        with self._changed:
            taken = {index for index in chunk_idxs if index not in self._filled} - self._evicted
            self._evicted |= taken
            return taken

    def give_back(self, chunk_idxs: set[int]) -> None:
        """The holes are there."""
        with self._changed:
            self._evicted -= chunk_idxs
            self._changed.notify_all()
