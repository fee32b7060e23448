"""How much of what a trace had fetched is read: the share, in a sliding window, by which prefetching stops.

A chunk is judged when the guests have read as many different chunks as stand before it in the trace, and
SLACK more: had they followed the trace, they would have read it by then. So a slow start costs nothing, and
a program that the trace does not know is noticed by what it reads instead.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

SLACK = 32
WINDOW = 128
#: judged chunks before the share means something, and the share that is too small
MIN_JUDGED = 48
MIN_SHARE = 0.5


class Reads(Protocol):
    """What is known of the reads of one blob's chunks (native.dataplane.Blob)."""

    def is_visited(self, chunk: int) -> bool: ...

    def visited_count(self) -> int: ...


class Precision:
    """`add` what was prefetched, `judge` now and then."""

    def __init__(self, blobs: Sequence[Reads]) -> None:
        self._blobs = blobs
        self._read_before = self._read_count()
        self._read_most = 0
        self._waiting: list[tuple[int, int, int]] = []  # a heap of (rank, blob index, chunk)
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self.judged = 0
        self.useful = 0

    def add(self, blob_index: int, chunks: Iterable[tuple[int, int]]) -> None:
        """Chunks that were prefetched: (rank in the trace, chunk index)."""
        for rank, chunk in chunks:
            heapq.heappush(self._waiting, (rank, blob_index, chunk))

    def judge(self) -> None:
        """Look at those that should have been read by now."""
        self._read_most = max(self._read_most, self._read_count() - self._read_before)
        while self._waiting and self._waiting[0][0] + SLACK < self._read_most:
            _, blob_index, chunk = heapq.heappop(self._waiting)
            is_useful = self._blobs[blob_index].is_visited(chunk)
            self._recent.append(is_useful)
            self.judged += 1
            self.useful += is_useful

    @property
    def share(self) -> float:
        """Of the chunks judged last, those that were read; 1 while there are none."""
        return sum(self._recent) / len(self._recent) if self._recent else 1.0

    @property
    def is_low(self) -> bool:
        """Whether going on is not worth it."""
        return len(self._recent) >= MIN_JUDGED and self.share < MIN_SHARE

    def _read_count(self) -> int:
        return sum(blob.visited_count() for blob in self._blobs)
