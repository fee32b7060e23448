"""The window on links that are simulated: it fills them, and what it lets through does not queue."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from rafs.prefetch.window import MAX_PIECE, MIN_PIECE, Sent, Window

MBIT = 125_000


@dataclass
class Link:
    """First in, first out: `rate` bytes a second, and half of `round_trip_s` each way."""

    rate: float
    round_trip_s: float
    free_at_s: float = 0.0
    busy_s: float = 0.0
    queued_s: list[float] = field(default_factory=list)

    def arrival(self, now_s: float, size: int) -> float:
        """When the answer to a request for `size` bytes, sent now, is there."""
        reached = now_s + self.round_trip_s / 2
        self.queued_s.append(max(self.free_at_s - reached, 0.0))
        self.free_at_s = max(self.free_at_s, reached) + size / self.rate
        self.busy_s += size / self.rate
        return self.free_at_s + self.round_trip_s / 2


def run(link: Link, window: Window, seconds: float, *, start_s: float = 0.0) -> float:
    """Prefetch through `link` as fast as the window allows; returns the share of the time it was busy."""
    flying: list[tuple[float, int, Sent]] = []
    now, in_flight, number = start_s, 0, 0
    before = link.busy_s
    while now < start_s + seconds:
        while in_flight == 0 or in_flight + window.piece <= window.size:
            size = window.piece
            heapq.heappush(flying, (link.arrival(now, size), number, window.sent(now, size)))
            in_flight += size
            number += 1
        now, _, sent = heapq.heappop(flying)
        in_flight -= sent.size
        window.received(now, sent, is_full=True)
    while flying:
        now, _, sent = heapq.heappop(flying)
        window.received(now, sent, is_full=False)
    return (link.busy_s - before) / seconds


@pytest.mark.parametrize("mbit", [10, 100, 1000])
@pytest.mark.parametrize("round_trip_ms", [1, 20, 100])
def test_it_fills_the_link_and_hardly_queues(mbit: int, round_trip_ms: int) -> None:
    link, window = Link(mbit * MBIT, round_trip_ms / 1000), Window()
    run(link, window, 3.0)
    assert window.rate == pytest.approx(link.rate, rel=0.25)
    link.queued_s.clear()
    assert run(link, window, 3.0, start_s=10.0) > 0.85
    piece_s = window.piece / link.rate
    assert sorted(link.queued_s)[len(link.queued_s) // 2] <= piece_s * 1.5
    demand_s = link.round_trip_s + 256 * 1024 / link.rate
    assert piece_s <= 0.18 * demand_s or window.piece == MIN_PIECE


def test_it_starts_fast() -> None:
    """The first second of a cold start is what counts."""
    link = Link(100 * MBIT, 0.02)
    assert run(link, Window(), 1.0) > 0.9


def test_it_follows_a_link_that_changes() -> None:
    link, window = Link(100 * MBIT, 0.02), Window()
    run(link, window, 3.0)
    before = window.size
    link.rate = 10 * MBIT
    run(link, window, 20.0, start_s=4.0)
    assert window.size < before / 3
    link.rate = 400 * MBIT
    assert run(link, window, 10.0, start_s=30.0) > 0.6


def test_demand_reads_alone_teach_it_no_small_window() -> None:
    """One at a time, as a program reads: that says nothing of what the link could carry."""
    window, now = Window(), 0.0
    for _ in range(100):
        sent = window.sent(now, 4096)
        now += 0.021
        window.received(now, sent, is_full=False, is_demand=True)
        now += 0.005
    assert window.size >= 2 * window.piece


def test_pieces_keep_to_their_bounds_whatever_is_measured() -> None:
    rng = random.Random(4)
    window, now = Window(), 0.0
    for _ in range(2000):
        sent = window.sent(now, rng.choice([1, 4096, 1 << 20]))
        now += rng.choice([0.0, 1e-7, 0.01, 5.0])
        window.received(now, sent, is_full=rng.random() < 0.7, is_demand=rng.random() < 0.3)
        assert MIN_PIECE <= window.piece <= MAX_PIECE
        assert window.size >= window.piece
