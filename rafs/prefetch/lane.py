"""The way to one back-end, as demand reads and prefetching share it: demand goes at once, prefetch fits in.

A demand read is never held up here; it is only known of. Prefetching asks in pieces, and only while all that
is in flight together stays within a `Window`: a demand read finds next to nothing before it, and while demand
fills the link, nothing is fetched ahead. A turn that has begun goes on even then, within the window as if it
were alone, since a guest may by now wait for the chunks that it has claimed.

On the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

from rafs.prefetch.window import Window

#: reads [offset, offset + length) of a stored blob
Read = Callable[[int, int], Awaitable[bytes]]


class Turn:
    """The right to prefetch one request; made by `Lane.turn`. It counts what it read."""

    def __init__(self, lane: Lane, size: int, *, is_whole: bool) -> None:
        self._lane = lane
        self._is_whole = is_whole
        self.remaining = size  # bytes that it has not received yet
        self.chunks = 0  # that it has claimed
        self.requests = 0
        self.read_bytes = 0

    async def read(self, read: Read, offset: int, length: int) -> bytes:
        """The bytes of a range, by pieces of it that are small enough for the link unless it is whole."""
        count = 1 if self._is_whole else max(1, round(length / self._lane.piece))
        step = -(-length // count)
        places = [(at, min(step, offset + length - at)) for at in range(offset, offset + length, step)]
        if len(places) == 1:
            return await self._read_piece(read, offset, length)
        tasks = [asyncio.ensure_future(self._read_piece(read, *place)) for place in places]
        try:
            return b"".join(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _read_piece(self, read: Read, offset: int, length: int) -> bytes:
        async with self._lane.piece_of_turn(length):
            data = await read(offset, length)
        self._lane.received(self, length)
        self.requests += 1
        self.read_bytes += len(data)
        return data


class Waiting(NamedTuple):
    """Who waits to be admitted: for how many bytes, and for how many of them there has to be room."""

    size: int
    room: int
    admitted: asyncio.Future[None]


class Lane:
    """See the module. `clock` tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window = Window()
        self._demand = 0  # bytes in flight
        self._ahead = 0
        self._begun = 0  # bytes that turns which have begun have not received yet; some are in flight
        self._turns: deque[Waiting] = deque()  # waiting, and so are these
        self._pieces: deque[Waiting] = deque()

    @property
    def piece(self) -> int:
        """Bytes that one request for prefetching should have."""
        return self._window.piece

    def statistics(self) -> dict[str, int]:
        """What is known of the link: bytes a second, microseconds, bytes."""
        return {
            "link_bytes_per_second": int(self._window.rate),
            "link_latency_us": int(self._window.latency_s * 1e6),
            "link_window_bytes": self._window.size,
        }

    async def read(self, read: Read, offset: int, length: int) -> bytes:
        """A demand read: at once."""
        with self.demand(length):
            return await read(offset, length)

    @contextmanager
    def demand(self, size: int) -> Iterator[None]:
        """Round a demand read of `size` bytes."""
        sent = self._window.sent(self._clock(), size)
        self._demand += size
        try:
            yield
            self._window.received(self._clock(), sent, is_full=self._is_full, is_demand=True)
        finally:
            self._demand -= size
            self._admit()

    @asynccontextmanager
    async def turn(self, size: int, *, is_whole: bool = False) -> AsyncIterator[Turn]:
        """Wait until the link has room for another request, of `size` bytes. First come, first served.

        `is_whole`: it is not cut in pieces, and waits until the link has room for all of it.
        """
        await self._wait(self._turns, size, size if is_whole else min(size, self.piece))
        turn = Turn(self, size, is_whole=is_whole)
        try:
            yield turn
        finally:
            self.received(turn, turn.remaining)

    def received(self, turn: Turn, size: int) -> None:
        """That much less is to come for a turn."""
        size = min(size, turn.remaining)
        turn.remaining -= size
        self._begun -= size
        self._admit()

    @asynccontextmanager
    async def piece_of_turn(self, size: int) -> AsyncIterator[None]:
        """Round one read of `size` bytes for a turn that has begun."""
        await self._wait(self._pieces, size, size)
        sent = self._window.sent(self._clock(), size)
        try:
            yield
            self._window.received(self._clock(), sent, is_full=self._is_full)
        finally:
            self._ahead -= size
            self._admit()

    @property
    def _is_full(self) -> bool:
        return bool(self._turns or self._pieces)

    async def _wait(self, queue: deque[Waiting], size: int, room: int) -> None:
        """Take `size` bytes when there is room for `room` of them."""
        entry = Waiting(size, room, asyncio.get_running_loop().create_future())
        queue.append(entry)
        self._admit()
        try:
            await entry.admitted
        except asyncio.CancelledError:
            if entry.admitted.cancelled():
                with suppress(ValueError):  # others have found it so already
                    queue.remove(entry)
            elif queue is self._turns:  # it was let in in the moment of the cancellation
                self._begun -= size
            else:
                self._ahead -= size
            self._admit()
            raise

    def _admit(self) -> None:
        while self._pieces and self._has_room(self._ahead, self._pieces[0].room):
            piece = self._pieces.popleft()
            if not piece.admitted.cancelled():
                self._ahead += piece.size
                piece.admitted.set_result(None)
        while self._turns and self._has_room(self._demand + self._begun, self._turns[0].room):
            turn = self._turns.popleft()
            if not turn.admitted.cancelled():
                self._begun += turn.size
                turn.admitted.set_result(None)

    def _has_room(self, in_flight: int, size: int) -> bool:
        return in_flight == 0 or in_flight + size <= self._window.size
