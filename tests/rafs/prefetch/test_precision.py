"""The share of what a trace had fetched that is read: judged when it should have been, not before."""

from __future__ import annotations

from rafs.prefetch.precision import MIN_JUDGED, SLACK, Precision


class Reads:
    """Chunks of one blob that were read."""

    def __init__(self) -> None:
        self.read: set[int] = set()

    def is_visited(self, chunk: int) -> bool:
        return chunk in self.read

    def visited_count(self) -> int:
        return len(self.read)


def fetched(reads: Reads, count: int) -> Precision:
    precision = Precision([reads])
    precision.add(0, [(rank, 1000 + rank) for rank in range(count)])
    return precision


def test_a_program_that_follows_the_trace_is_served_on() -> None:
    reads = Reads()
    precision = fetched(reads, 500)
    for rank in range(500):
        reads.read.add(1000 + rank)
        precision.judge()
        assert not precision.is_low
    assert precision.judged == precision.useful == 500 - SLACK and precision.share == 1.0


def test_one_that_reads_something_else_is_not() -> None:
    reads = Reads()
    precision = fetched(reads, 500)
    for number in range(SLACK + MIN_JUDGED):
        assert not precision.is_low
        reads.read.add(number)
        precision.judge()
    assert precision.is_low and precision.useful == 0 and precision.share == 0.0


def test_nothing_is_judged_while_nothing_is_read() -> None:
    reads = Reads()
    reads.read = set(range(700))  # by earlier mounts
    precision = fetched(reads, 500)
    precision.judge()
    assert precision.judged == 0 and not precision.is_low and precision.share == 1.0


def test_the_window_forgets() -> None:
    """Precision that drops late counts, whatever was before."""
    reads = Reads()
    precision = fetched(reads, 1000)
    reads.read |= {1000 + rank for rank in range(400)}
    precision.judge()
    assert not precision.is_low
    reads.read |= set(range(300))
    precision.judge()
    assert precision.is_low and precision.useful == 400


def test_a_little_disorder_does_no_harm() -> None:
    reads = Reads()
    precision = fetched(reads, 400)
    for start in range(0, 400, 20):
        reads.read |= {1000 + rank for rank in reversed(range(start, start + 20))}
        precision.judge()
    assert precision.share == 1.0
