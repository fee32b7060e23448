"""The bound on bytes a second."""

from __future__ import annotations

import pytest

from rafs.prefetch.pace import Pace


def test_over_time_no_more_than_the_bound_goes() -> None:
    pace, now = Pace(1000), 5.0
    for _ in range(100):
        now += pace.spend(now, 100)
    assert now - 5.0 == pytest.approx(9.8, abs=0.2)


def test_time_unused_is_not_saved_up() -> None:
    pace = Pace(1000)
    assert pace.spend(0.0, 1000) == 0
    assert pace.spend(100.0, 50) == 0
    assert pace.spend(100.0, 100) == 0
    assert pace.spend(100.0, 100) == pytest.approx(0.05)


def test_no_bound() -> None:
    pace = Pace(0)
    assert [pace.spend(0.0, 1 << 30) for _ in range(3)] == [0, 0, 0]
