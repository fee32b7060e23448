"""What a prefetch has done so far. Plain values, for another process too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PrefetchStatistics:
    """Sums since the start. `read_bytes` are stored bytes, `seconds` those of all requests together.

    `unmerged_chunks` had a request of their own. `began_at` and `ended_at` are Unix times, 0: not yet.
    Of the chunks that a trace had fetched, `judged` should have been read by now, and `useful` were.
    """

    requests: int = 0
    read_bytes: int = 0
    chunks: int = 0
    unmerged_chunks: int = 0
    failed_requests: int = 0
    workers: int = 0
    seconds: float = 0.0
    began_at: float = 0.0
    ended_at: float = 0.0
    judged: int = 0
    useful: int = 0
    stopped_by: str = ""

    @property
    def was_stopped(self) -> int:
        """1: it gave up, and `stopped_by` says why."""
        return int(bool(self.stopped_by))
