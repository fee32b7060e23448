"""How much to have in flight on the way to a back-end, so that the link is busy and nothing queues on it.

The bytes that a path holds when it is busy and no queue has built up are its rate times its round trip
(Kleinrock's optimum, which BBR keeps to as well). More in flight is no faster: it only lies in a queue, and a
demand read that comes then waits behind it. So with that much in flight a demand read is delayed by what is
over it, one *piece* at most; and the size of a piece is chosen so that this is a small part of what such a
read takes anyway.

The rate is the largest seen of late, what a read takes the smallest. Pure: times are the caller's, in s.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import NamedTuple

KIB = 1 << 10

#: before anything is known: enough for 100 Mbit/s at 40 ms
FIRST_SIZE = 512 * KIB
MIN_PIECE = 32 * KIB
MAX_PIECE = 4096 * KIB
#: of what a demand read takes on an idle link, the part that one piece may take
PIECE_SHARE = 0.12
#: the window grows so much a round, until the rate has not followed by FOLLOWS for STEADY_ROUNDS
STARTUP_GAIN = 2.0
FOLLOWS = 1.08
STEADY_ROUNDS = 3
#: afterwards it is a little larger in one round of PROBE_EVERY, to find out whether there is more; and while
#: there is
PROBE_GAIN = 1.15
PROBE_EVERY = 16
#: rounds and reads that count as of late
RATE_ROUNDS = 10
LATENCY_READS = 128


class Sent(NamedTuple):
    """A read that is in flight."""

    at_s: float
    size: int
    delivered: int


class Window:
    """`sent` when a read is asked for, `received` when its bytes are there; `size` is the bound on both."""

    def __init__(self) -> None:
        self.size = FIRST_SIZE
        self.piece = 2 * MIN_PIECE
        self._delivered = 0
        self._rates: deque[float] = deque(maxlen=RATE_ROUNDS)
        self._reads: deque[tuple[float, int]] = deque(maxlen=LATENCY_READS)  # (seconds, size)
        self._demand_size = 256.0 * KIB
        self._latency_s = 0.0
        self._round: tuple[float, int] | None = None  # when it began, what was delivered by then
        self._is_full_round = False
        self._rounds = self._steady_rounds = 0
        self._has_started = False

    @property
    def rate(self) -> float:
        """Bytes a second that the link carries, as far as has been seen; 0: not known."""
        return max(self._rates, default=0.0)

    @property
    def latency_s(self) -> float:
        """What a read of one piece takes when it meets no queue; 0: not known."""
        rate = self.rate
        alike = [
            took + (self.piece - size) / rate
            for took, size in self._reads
            if rate and self.piece / 4 <= size <= self.piece * 3 / 2
        ]
        self._latency_s = max(min(alike), 1e-6) if alike else self._latency_s
        return self._latency_s

    def sent(self, now_s: float, size: int) -> Sent:
        """A read of `size` bytes is being asked for."""
        return Sent(now_s, size, self._delivered)

    def received(self, now_s: float, read: Sent, *, is_full: bool, is_demand: bool = False) -> None:
        """Its bytes are there. `is_full`: more was wanted than the window let through meanwhile."""
        took = max(now_s - read.at_s, 1e-6)
        self._delivered += read.size
        self._reads.append((took, read.size))
        if is_demand:
            self._demand_size += (read.size - self._demand_size) / 8
        if is_demand and not is_full:
            self._round = None  # what comes now says nothing of what the link could carry
        elif self._round is None:
            self._round, self._is_full_round = (now_s, self._delivered), is_full
        else:
            self._is_full_round &= is_full
            began_s, before = self._round
            if read.delivered >= before and now_s > began_s:
                self._end_round((self._delivered - before) / (now_s - began_s))
                self._round, self._is_full_round = (now_s, self._delivered), is_full

    def _end_round(self, rate: float) -> None:
        self._steady_rounds = 0 if rate > self.rate * FOLLOWS else self._steady_rounds + 1
        self._rounds += 1
        if not self._is_full_round:  # there is not more to fetch: it need not grow
            self._has_started = True
        self._has_started |= self._steady_rounds == STEADY_ROUNDS
        if self._is_full_round or rate > self.rate:
            self._rates.append(rate)
        self._fit()

    def _fit(self) -> None:
        """Once a round. By Little's law, what is in flight is the rate times what a read takes."""
        if not self._has_started:
            gain = STARTUP_GAIN
        else:
            gain = PROBE_GAIN if self._steady_rounds == 0 or self._rounds % PROBE_EVERY == 0 else 1.0
        in_flight = self.rate * self.latency_s
        piece = int(PIECE_SHARE * (in_flight - self.piece + self._demand_size))
        self.piece = min(max(piece, MIN_PIECE), MAX_PIECE)
        pieces = gain * in_flight / self.piece
        size = max(ceil(pieces) if gain > 1 else round(pieces), 2) * self.piece
        # the first reads of all say too little: the link was empty when they went
        self.size = size if self._has_started else max(size, self.size)
