"""A bound on bytes a second, for prefetching: who asks is told how long to wait. Pure."""

from __future__ import annotations


class Pace:
    """`bytes_per_second` 0: no bound. A burst of a tenth of a second is let through at once."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._free_at_s = 0.0

    def spend(self, now_s: float, size: int) -> float:
        """Account for `size` bytes; returns the seconds to wait before they are asked for."""
        if not self._rate:
            return 0.0
        begin = max(self._free_at_s, now_s - 0.1)
        self._free_at_s = begin + size / self._rate
        return max(begin - now_s, 0.0)
