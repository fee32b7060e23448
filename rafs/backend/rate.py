"""Limits of what one host is asked for by this process: requests and bytes a second, and how many at once.

The agent is the one process of a node that fetches, so what is bounded here is bounded for the node. A limit
of 0 is none, which is the default. A request is charged before it is sent, with the bytes that it asks for;
requests go in the order in which they came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

#: how much may be taken at once after a time of quiet, in seconds of the rate
BURST_S = 1.0
#: requests to one host at a time; more connections do not make a registry faster
MAX_CONCURRENT = 32


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What each host may be asked for in a second; 0: any amount."""

    requests_per_s: float = 0
    bytes_per_s: float = 0


class TokenBucket:
    """`rate` a second, on average; what a second of quiet has saved may be taken at once.

    A request may take more than there is: the debt is waited for by those behind it.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._paid_until = float("-inf")  # the time up to which the rate has been given out

    def reserve(self, amount: float, now: float) -> float:
        """Take `amount`; return in how many seconds its turn comes."""
        if not self._rate:
            return 0.0
        turn = max(self._paid_until, now - BURST_S)
        self._paid_until = turn + amount / self._rate
        return max(0.0, turn - now)

    def give_back(self, amount: float) -> None:
        """What was reserved and will not be used."""
        if self._rate:
            self._paid_until -= amount / self._rate


class Host:
    """What is known of one host and port: how much of it we use, and until when it wants to be left alone."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests = TokenBucket(limit.requests_per_s)
        self._bytes = TokenBucket(limit.bytes_per_s)
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._not_before = float("-inf")

    @asynccontextmanager
    async def turn(self, length: int) -> AsyncIterator[None]:
        """Wait for the turn of one request that asks for `length` bytes, and hold its place meanwhile."""
        await self._wait_turn(length)
        async with self._slots:
            yield

    async def _wait_turn(self, length: int) -> None:
        now = self._clock()
        delay = max(self._requests.reserve(1, now), self._bytes.reserve(length, now))
        if delay > 0:
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                self._requests.give_back(1)
                self._bytes.give_back(length)
                raise

    def hold_off(self, seconds: float) -> None:
        """The host said that it is not to be asked for so long (Retry-After)."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    @property
    def wait_s(self) -> float:
        """How long the host is still to be left alone."""
        return max(0.0, self._not_before - self._clock())
