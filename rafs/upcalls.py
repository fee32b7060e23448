"""The reader of the upcall ring: every miss goes to whoever serves its blob.

One ring serves all blobs of the process, whatever back-ends and cache directories they have. Runs on the
event loop. At most MAX_BACKLOG batches are going on; beyond, upcalls stay in their ring, which is bounded
too.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from native.dataplane import ChunkStore
from rafs.chunk_state import Run

MAX_BACKLOG = 1024

#: takes chunks that are PENDING, and completes or fails each of them
Serve = Callable[[list[Run]], "asyncio.Task[None]"]


class Upcalls:
    """`start` on the running loop; `add` a blob when it is opened, `remove` it before it is closed."""

    def __init__(self, chunks: ChunkStore) -> None:
        self.chunks = chunks
        self._serve: dict[int, Serve] = {}
        self._is_started = self._is_reading = False
        self._backlog = 0

    def start(self) -> None:
        """Begin to take upcalls."""
        self._is_started = True
        self._read(True)

    def stop(self) -> None:
        """Take no more; what has been taken goes on."""
        self._is_started = False
        self._read(False)

    def add(self, handle: int, serve: Serve) -> None:
        """Misses of the blob with this handle go to `serve`."""
        self._serve[handle] = serve

    def remove(self, handle: int) -> None:
        """Nobody serves this handle any more."""
        del self._serve[handle]

    def _read(self, wanted: bool) -> None:
        if wanted != self._is_reading:
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_reader(self.chunks.event_fd, self._on_upcalls)
            else:
                loop.remove_reader(self.chunks.event_fd)
        self._is_reading = wanted

    def _on_upcalls(self) -> None:
        runs: defaultdict[int, list[Run]] = defaultdict(list)
        for handle, first, count in self.chunks.take():
            runs[handle].append((first, count))
        for handle, of_blob in runs.items():
            serve = self._serve.get(handle)
            if serve is not None:  # else the blob was closed, and its requests with it
                self._backlog += 1
                serve(of_blob).add_done_callback(self._on_batch_done)
        if self._backlog >= MAX_BACKLOG:
            self._read(False)

    def _on_batch_done(self, _: asyncio.Task[None]) -> None:
        self._backlog -= 1
        if self._is_started and self._backlog < MAX_BACKLOG:
            self._read(True)
