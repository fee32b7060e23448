"""The bound on what is in flight: never exceeded, first come first served, urgent first, no turn is lost."""

from __future__ import annotations

import asyncio
import random

from rafs.budget import Budget


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Request:
    """A request that holds its part of the budget until told to end."""

    def __init__(self, budget: Budget, size: int, *, urgent: bool = True) -> None:
        self.running = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run(budget, size, urgent))

    async def _run(self, budget: Budget, size: int, urgent: bool) -> None:
        async with budget.spend(size, urgent=urgent):
            self.running = True
            await self._end.wait()
            self.running = False

    async def end(self) -> None:
        self._end.set()
        await self.task
        await settle()


async def test_bytes_and_requests_are_bounded() -> None:
    budget = Budget(max_bytes=100, max_requests=3)
    requests = [Request(budget, size) for size in (40, 40, 40, 10, 10)]
    await settle()
    assert [r.running for r in requests] == [True, True, False, False, False]  # 10 does not overtake 40
    assert (budget.bytes_in_flight, budget.requests_in_flight, budget.waiting) == (80, 2, 3)
    await requests[0].end()
    assert [r.running for r in requests[1:]] == [True, True, True, False]  # three at most
    await requests[1].end()
    assert requests[4].running
    for request in requests[2:]:
        await request.end()
    assert (budget.bytes_in_flight, budget.requests_in_flight, budget.waiting) == (0, 0, 0)


async def test_what_is_larger_than_the_budget_goes_alone() -> None:
    budget = Budget(max_bytes=100, max_requests=9)
    small, large, after = Request(budget, 1), Request(budget, 1000), Request(budget, 1)
    await settle()
    assert (small.running, large.running, after.running) == (True, False, False)
    await small.end()
    assert (large.running, after.running) == (True, False)
    await large.end()
    assert after.running
    await after.end()


async def test_urgent_goes_first() -> None:
    budget = Budget(max_bytes=100, max_requests=1)
    first = Request(budget, 1)
    await settle()
    prefetch = [Request(budget, 1, urgent=False) for _ in range(2)]
    await settle()
    demand = [Request(budget, 1) for _ in range(2)]
    await settle()
    order = []
    waiting = [first, *demand, *prefetch]
    while waiting:
        (running,) = [r for r in waiting if r.running]
        order.append(running)
        waiting.remove(running)
        await running.end()
    assert order == [first, *demand, *prefetch]


async def test_cancellation_at_any_moment_loses_nothing() -> None:
    rng = random.Random(4)
    for _ in range(50):
        budget = Budget(max_bytes=10, max_requests=3)
        requests = [Request(budget, rng.randint(1, 12), urgent=rng.random() < 0.5) for _ in range(12)]
        for request in rng.sample(requests, 12):
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                request.task.cancel()
            else:
                request._end.set()
            assert budget.bytes_in_flight <= 12 and budget.requests_in_flight <= 3
        await asyncio.gather(*(r.task for r in requests), return_exceptions=True)
        assert (budget.bytes_in_flight, budget.requests_in_flight, budget.waiting) == (0, 0, 0)
