"""The lane: demand is never held up, prefetch keeps within the window, what has begun goes on."""

from __future__ import annotations

import asyncio
import random

import pytest

from rafs.prefetch.lane import Lane, Turn


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Reads:
    """Reads that end when they are told to."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.running: list[tuple[int, int, asyncio.Event]] = []

    async def __call__(self, offset: int, length: int) -> bytes:
        entry = (offset, length, asyncio.Event())
        self.running.append(entry)
        try:
            await entry[2].wait()
        finally:
            self.running.remove(entry)
        return bytes([offset % 251]) * length

    async def end_one(self) -> None:
        self._clock.now += 0.01
        self.running[0][2].set()
        await settle()

    @property
    def in_flight(self) -> int:
        return sum(length for _, length, _ in self.running)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def prefetch(lane: Lane, reads: Reads, length: int, turns: list[Turn]) -> bytes:
    async with lane.turn(length) as turn:
        turns.append(turn)
        return await turn.read(reads, 0, length)


async def test_prefetch_keeps_within_the_window_and_all_of_it_ends() -> None:
    lane, clock = Lane(clock := Clock()), clock
    reads, turns = Reads(clock), list[Turn]()
    size = lane.statistics()["link_window_bytes"]
    tasks = [asyncio.create_task(prefetch(lane, reads, lane.piece, turns)) for _ in range(50)]
    await settle()
    assert size - lane.piece < reads.in_flight <= size
    while reads.running:
        before = reads.in_flight
        await reads.end_one()
        assert reads.in_flight < before or reads.in_flight <= lane.statistics()["link_window_bytes"]
    assert all(task.done() for task in tasks) and len(turns) == 50


async def test_demand_goes_first_and_what_has_begun_goes_on() -> None:
    clock = Clock()
    lane, reads, turns = Lane(clock), Reads(clock), list[Turn]()
    long = asyncio.create_task(prefetch(lane, reads, 20 * lane.piece, turns))
    await settle()
    begun = len(reads.running)
    assert begun < 20
    with lane.demand(64 << 20):  # fills any link
        other = asyncio.create_task(prefetch(lane, reads, 10, turns))
        await settle()
        while not long.done():
            await reads.end_one()
        assert len(turns) == 1 and not reads.running and not other.done()
    await settle()
    assert len(turns) == 2
    await reads.end_one()
    assert await other == bytes(10)


async def test_the_pieces_of_a_read_are_put_together() -> None:
    clock = Clock()
    lane, content = Lane(clock), random.Random(3).randbytes(1 << 20)

    async def read(offset: int, length: int) -> bytes:
        await asyncio.sleep(0)
        return content[offset : offset + length]

    async with lane.turn(900_000) as turn:
        assert await turn.read(read, 1000, 900_000) == content[1000:901_000]
        assert turn.requests > 5 and turn.read_bytes == 900_000
    async with lane.turn(900_000, is_whole=True) as turn:
        assert await turn.read(read, 0, 900_000) == content[:900_000]
        assert turn.requests == 1


async def test_a_whole_read_waits_for_an_empty_link() -> None:
    clock = Clock()
    lane = Lane(clock)

    async def whole() -> None:
        async with lane.turn(64 << 20, is_whole=True):
            pass

    with lane.demand(1):
        waiting = asyncio.create_task(whole())
        await settle()
        assert not waiting.done()
    await waiting


async def test_whoever_is_cancelled_gives_back_what_it_had() -> None:
    clock, rng = Clock(), random.Random(9)
    lane, reads, turns = Lane(clock), Reads(clock), list[Turn]()
    tasks = [asyncio.create_task(prefetch(lane, reads, rng.randint(1, 400_000), turns)) for _ in range(60)]
    while any(not task.done() for task in tasks):
        await settle()
        rng.choice(tasks).cancel()
        if reads.running and rng.random() < 0.3:
            await reads.end_one()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not reads.running
    last = asyncio.create_task(prefetch(lane, reads, 3 * lane.piece, turns))
    while not last.done():
        await settle()
        if reads.running:
            await reads.end_one()
    assert (lane._demand, lane._ahead, lane._begun) == (0, 0, 0)


async def test_a_read_that_fails_ends_its_siblings_and_frees_the_link() -> None:
    lane = Lane()

    async def fail(offset: int, length: int) -> bytes:
        await asyncio.sleep(0)
        if offset:
            raise OSError("gone")
        await asyncio.Event().wait()
        return b""

    for _ in range(3):
        with pytest.raises(OSError, match="gone"):
            async with lane.turn(10 * lane.piece) as turn:
                await turn.read(fail, 0, 10 * lane.piece)
    with pytest.raises(ZeroDivisionError), lane.demand(100):
        raise ZeroDivisionError
    assert (lane._demand, lane._ahead, lane._begun) == (0, 0, 0)
