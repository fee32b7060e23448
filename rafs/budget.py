"""A bound on what is in flight: a number of requests and their bytes of memory, on one event loop.

First come, first served, so that a large request is not starved by small ones; but whoever is waited for
(`urgent`) goes before prefetch. A request that is larger than the whole budget is let through alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """`async with budget.spend(size, urgent=True): ...`"""

    def __init__(self, *, max_bytes: int, max_requests: int) -> None:
        self._max_bytes = max_bytes
        self._max_requests = max_requests
        self.bytes_in_flight = 0
        self.requests_in_flight = 0
        self._urgent: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._others: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many requests wait for others to end."""
        return len(self._urgent) + len(self._others)

    @asynccontextmanager
    async def spend(self, size: int, *, urgent: bool) -> AsyncIterator[None]:
        """Wait until there is room for one request of `size` bytes, and take it for the time of the block."""
        await self._wait_room(size, urgent)
        try:
            yield
        finally:
            self._give_back(size)

    async def _wait_room(self, size: int, urgent: bool) -> None:
        queue = self._urgent if urgent else self._others
        if self._has_room(size) and not self._urgent and (urgent or not self._others):
            self._take(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        queue.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(size)  # our turn came in the moment of the cancellation
            else:
                queue.remove(entry)
                self._admit()
            raise

    def _has_room(self, size: int) -> bool:
        if self.requests_in_flight == 0:
            return True
        fits = self.bytes_in_flight + size <= self._max_bytes
        return fits and self.requests_in_flight < self._max_requests

    def _take(self, size: int) -> None:
        self.bytes_in_flight += size
        self.requests_in_flight += 1

    def _give_back(self, size: int) -> None:
        self.bytes_in_flight -= size
        self.requests_in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while (queue := self._urgent or self._others) and self._has_room(queue[0][0]):
            size, turn = queue.popleft()
            if turn.cancelled():
                continue
            self._take(size)
            turn.set_result(None)
