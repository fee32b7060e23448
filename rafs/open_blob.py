"""A blob that is served, and chunks of it that somebody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from native.dataplane import Blob
from rafs.blob_meta import BlobMeta
from rafs.blob_space import BlobSpace
from rafs.blob_tail import Tail
from rafs.cache import CachedBlob
from rafs.chunk_state import Run, runs_of
from rafs.errors import RafsError
from rafs.prefetch.lane import Turn

log = logging.getLogger(__name__)


def _nobody_waits(first: int, count: int, has_failed: bool) -> None:
    pass


@dataclass(eq=False)
class OpenBlob:
    """A blob that is served: its chunk states (`native`), records, cache files, their room, and metadata.

    `on_settled(first, count, has_failed)` is called, on the event loop, for chunks that nobody fetches any
    more.
    """

    native: Blob
    meta: BlobMeta
    cache: CachedBlob
    space: BlobSpace
    tail: Tail
    users: int = 1
    said_unverified: bool = False
    is_closing: bool = False
    on_settled: Callable[[int, int, bool], None] = _nobody_waits
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    jobs: set[Future[object]] = field(default_factory=set)

    @property
    def blob_id(self) -> str:
        return self.meta.record.blob_id


class Batch:
    """Chunks of one blob that are PENDING in our name, until each is completed, failed or let go.

    `turn`: that of a prefetch, which has taken its part of the budget.
    """

    def __init__(
        self, blob: OpenBlob, runs: Iterable[Run], counters: Counter[str], turn: Turn | None = None
    ) -> None:
        self.turn = turn
        self._blob = blob
        self._counters = counters
        self._open = {index for first, count in runs for index in range(first, first + count)}
        self.first_error: RafsError | None = None

    def __contains__(self, chunk_idx: int) -> bool:
        return chunk_idx in self._open

    def complete(self, chunk_idxs: Iterable[int], *, in_memory: bool = False) -> None:
        """They were written, to the disk or to memory."""
        for first, count in self._take(chunk_idxs):
            self._blob.native.complete(first, count, in_memory=in_memory)
            self._blob.on_settled(first, count, False)

    def let_go(self, chunk_idxs: Iterable[int]) -> None:
        """They are READY by another one's doing: who waits looks again, and asks again if they are gone."""
        for first, count in self._take(chunk_idxs):
            self._blob.native.unclaim(first, count)
            self._blob.on_settled(first, count, False)

    def fail(self, chunk_idxs: Iterable[int], error: RafsError) -> None:
        """They could not be had, which the log tells in one line a run."""
        reason = str(error).removeprefix(f"blob {self._blob.blob_id}: ")
        for first, count in self._take(chunk_idxs):
            which = f"chunk {first}" if count == 1 else f"chunks {first}-{first + count - 1}"
            log.error("blob %s %s: %s", self._blob.blob_id, which, reason)
            self._counters["failed_chunks"] += count
            self._blob.native.fail(first, count)
            self._blob.on_settled(first, count, True)
        self.first_error = self.first_error or error

    def end(self) -> None:
        """Fail without a word what nobody dealt with: the daemon or the mount is going away, or a bug."""
        for first, count in self._take(list(self._open)):
            self._blob.native.fail(first, count)
            self._blob.on_settled(first, count, True)

    def _take(self, chunk_idxs: Iterable[int]) -> list[Run]:
        runs = list(runs_of(sorted(self._open.intersection(chunk_idxs))))
        for first, count in runs:
            self._open.difference_update(range(first, first + count))
        return runs
