"""A chunk store whose upcalls a test writes, as the data plane would after a guest's read missed."""

from __future__ import annotations

import os

from native.dataplane import Blob, ChunkStore, Upcall


class ScriptedUpcalls(ChunkStore):
    """Real chunk states, scripted misses."""

    def __init__(self) -> None:
        super().__init__()
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._upcalls: list[Upcall] = []

    @property
    def event_fd(self) -> int:
        return self._event_fd

    def miss(self, blob: Blob, first: int, count: int = 1) -> list[tuple[int, int]]:
        """A read of chunks: those that are ABSENT become PENDING and are asked for. Returns them as runs."""
        runs = blob.claim(first, count)
        self.ask(blob, runs)
        return runs

    def ask(self, blob: Blob, runs: list[tuple[int, int]]) -> None:
        """Ask for chunks that were claimed before."""
        self.ask_handle(blob.handle, runs)

    def ask_handle(self, handle: int, runs: list[tuple[int, int]]) -> None:
        """The same of a blob that need not exist."""
        self._upcalls += [Upcall(handle, *run) for run in runs]
        os.eventfd_write(self._event_fd, 1)

    def take(self, limit: int = 256) -> list[Upcall]:
        os.eventfd_read(self._event_fd)
        taken, self._upcalls = self._upcalls[:limit], self._upcalls[limit:]
        if self._upcalls:
            os.eventfd_write(self._event_fd, 1)
        return taken

    def close(self) -> None:
        super().close()
        os.close(self._event_fd)
