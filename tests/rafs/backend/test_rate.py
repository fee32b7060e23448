"""Token buckets and what is known of a host; the time is the test's."""

from __future__ import annotations

import asyncio

import pytest

from rafs.backend.rate import MAX_CONCURRENT, Host, RateLimit, TokenBucket


def test_no_limit_never_waits() -> None:
    bucket = TokenBucket(0)
    assert [bucket.reserve(1e12, 5.0) for _ in range(3)] == [0, 0, 0]


def test_a_second_may_be_saved_up_and_debts_are_waited_for() -> None:
    bucket = TokenBucket(100)
    assert bucket.reserve(100, 10.0) == 0  # saved up before
    assert bucket.reserve(50, 10.0) == 0  # goes at once, on credit
    assert bucket.reserve(1, 10.0) == pytest.approx(0.5)
    assert bucket.reserve(1, 10.0) == pytest.approx(0.51)
    assert bucket.reserve(1000, 10.52) == pytest.approx(0)
    assert bucket.reserve(1, 15.52) == pytest.approx(5)
    bucket.give_back(1)
    assert bucket.reserve(1, 15.52) == pytest.approx(5)
    assert [bucket.reserve(40, 100.0) for _ in range(4)] == pytest.approx([0, 0, 0, 0.2])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_requests_are_bounded_in_number() -> None:
    host = Host(RateLimit())
    running = most = 0

    async def request() -> None:
        nonlocal running, most
        async with host.turn(1):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(request() for _ in range(3 * MAX_CONCURRENT)))
    assert most == MAX_CONCURRENT


async def test_the_rate_of_requests_and_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("rafs.backend.rate.asyncio.sleep", sleep)
    host = Host(RateLimit(requests_per_s=2, bytes_per_s=1000), Clock())
    for length in (0, 0, 0, 3000, 10):
        async with host.turn(length):
            pass
    assert slept == pytest.approx([0.5, 2.0])


async def test_who_gives_up_gives_its_turn_back() -> None:
    host = Host(RateLimit(bytes_per_s=1), Clock())
    async with host.turn(10):
        pass

    async def ask() -> None:
        async with host.turn(1000):
            raise AssertionError("its turn cannot have come")

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert host._bytes.reserve(1, 9.0) == 0


def test_a_host_that_wants_to_be_left_alone() -> None:
    clock = Clock()
    host = Host(RateLimit(), clock)
    assert host.wait_s == 0
    host.hold_off(5)
    host.hold_off(2)
    clock.now = 4
    assert host.wait_s == 1
    clock.now = 6
    assert host.wait_s == 0
