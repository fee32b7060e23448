"""What prefetching costs a demand read, and what it gets through, on simulated links in simulated time.

A loop whose clock jumps to the next timer makes that exact: no time passes in between, and nothing is slow.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import statistics
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from rafs.prefetch.lane import Lane
from tests.rafs.prefetch.test_window import MBIT, Link

T = TypeVar("T")
KIB = 1 << 10


class JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: what it should wait has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def simulated(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


@dataclass
class Case:
    """A link, and the stored sizes of a chunk that is read on demand and of one that is prefetched."""

    mbit: float
    round_trip_s: float
    demand_size: int
    ahead_size: int

    async def run(self, *, prefetch: bool, reads: int = 60) -> tuple[float, float]:
        """The mean latency of demand reads, and the share of the link that prefetching had meanwhile."""
        loop, rng = asyncio.get_running_loop(), random.Random(7)
        link, lane, prefetched = Link(self.mbit * MBIT, self.round_trip_s), Lane(loop.time), 0

        async def read(_: int, length: int) -> bytes:
            await asyncio.sleep(link.arrival(loop.time(), length) - loop.time())
            return bytes(length)

        async def work() -> None:
            nonlocal prefetched
            while True:
                async with lane.turn(self.ahead_size) as turn:
                    await turn.read(read, 0, self.ahead_size)
                prefetched += self.ahead_size

        workers = [asyncio.create_task(work()) for _ in range(8 if prefetch else 0)]
        await asyncio.sleep(2)
        latencies, began, before = [], loop.time(), prefetched
        for _ in range(reads):
            await asyncio.sleep(rng.uniform(0.5, 1.5) * (self.round_trip_s + self.demand_size / link.rate))
            asked = loop.time()
            await lane.read(read, 0, self.demand_size)
            latencies.append(loop.time() - asked)
        share = (prefetched - before) / (link.rate * (loop.time() - began))
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        return statistics.mean(latencies), share


@pytest.mark.parametrize(
    "case",
    [
        Case(100, 0.020, 350 * KIB, 350 * KIB),
        Case(100, 0.020, 350 * KIB, 40 * KIB),
        Case(100, 0.020, 60 * KIB, 350 * KIB),
        Case(1000, 0.005, 350 * KIB, 350 * KIB),
        Case(1000, 0.050, 350 * KIB, 1024 * KIB),
        Case(20, 0.050, 200 * KIB, 350 * KIB),
        Case(500, 0.100, 60 * KIB, 1024 * KIB),
    ],
    ids=str,
)
def test_a_demand_read_pays_a_tenth_at_most(case: Case) -> None:
    alone, _ = simulated(case.run(prefetch=False))
    beside, share = simulated(case.run(prefetch=True))
    assert beside <= 1.10 * alone
    demand = case.demand_size / (case.mbit * MBIT * (beside + alone))  # its own part of the link
    assert share >= 0.5 * (1 - demand)
