"""Single flight: each chunk is fetched once, whoever asks, and everyone who asked is told.

PENDING bits of the agent's own say what is being fetched; here stands who waits for it. All on the event
loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

from rafs.chunk_state import Run, runs_of
from rafs.open_blob import OpenBlob

#: fetches chunks that were claimed
Fetch = Callable[[OpenBlob, list[Run]], "asyncio.Task[None]"]


class Asker(Protocol):
    """Who asked for chunks of a blob. Hashed by identity."""

    def settled(self, first: int, count: int, has_failed: bool) -> None:
        """These chunks, which were asked for, are READY now, or could not be had."""


class Misses:
    """`fetch` begins to fetch, and sees to it that `settled` is called for each chunk."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._waiting: defaultdict[OpenBlob, dict[int, set[Asker]]] = defaultdict(dict)

    def want(self, blob: OpenBlob, run: Run, asker: Asker) -> int:
        """Ask for chunks, which exist; returns for how many of them the asker did not wait already.

        It may be told before this returns.
        """
        first, count = run
        waiting = self._waiting[blob]
        new = 0
        for chunk in range(first, first + count):
            askers = waiting.setdefault(chunk, set())
            new += asker not in askers
            askers.add(asker)
        if won := blob.native.claim(first, count):
            self._fetch(blob, won)
        for ready in runs_of(c for c in range(first, first + count) if blob.native.is_ready(c)):
            self.settled(blob, *ready, has_failed=False)
        return new

    def settled(self, blob: OpenBlob, first: int, count: int, *, has_failed: bool) -> None:
        """Tell who waits."""
        waiting = self._waiting.get(blob)
        if not waiting:
            return
        told: defaultdict[Asker, list[int]] = defaultdict(list)
        for chunk in range(first, first + count):
            for asker in waiting.pop(chunk, ()):
                told[asker].append(chunk)
        for asker, chunks in told.items():
            for run in runs_of(chunks):
                asker.settled(*run, has_failed)

    def forget(self, blob: OpenBlob, asker: Asker) -> None:
        """The asker does not wait any more. What is on its way arrives in the cache."""
        waiting = self._waiting.get(blob, {})
        for chunk in [chunk for chunk, askers in waiting.items() if asker in askers]:
            waiting[chunk].discard(asker)
            if not waiting[chunk]:
                del waiting[chunk]

    def drop(self, blob: OpenBlob) -> None:
        """The blob was closed."""
        self._waiting.pop(blob, None)
