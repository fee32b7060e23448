"""What all fetching of a process shares: bounds on what is in flight, and the threads that decode."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from rafs.budget import Budget
from rafs.chunk_state import MergeLimits


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What fetching may use. `max_bytes` bounds stored and plain bytes of all requests in flight together."""

    merge: MergeLimits = field(default_factory=MergeLimits)
    max_requests: int = 32
    max_bytes: int = 64 << 20
    #: plain bytes that one thread decodes before it reports
    work_size: int = 1 << 20
    #: plain bytes that `fill` claims at a time
    fill_size: int = 16 << 20


#: of the threads that decode what nobody waits for yet, beyond ours; little, as somebody soon may
_AHEAD_NICENESS = 4


class FetchResources:
    """What all fetching of a process shares: a bound on what is in flight, and the threads that decode.

    `threads`: the default is the number of CPUs that we may use. What is fetched ahead has half as many of
    its own, of lower priority: a read that is waited for must find a thread.
    """

    def __init__(self, limits: FetchLimits | None = None, *, threads: int | None = None) -> None:
        self.limits = limits or FetchLimits()
        self.budget = Budget(max_bytes=self.limits.max_bytes, max_requests=self.limits.max_requests)
        threads = threads or len(os.sched_getaffinity(0))
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="blob-decode")
        self.ahead_pool = ThreadPoolExecutor(
            max(threads // 2, 1), thread_name_prefix="blob-ahead", initializer=_be_nice
        )

    def close(self) -> None:
        """No store uses them any more; threads that still run are not waited for."""
        for pool in (self.pool, self.ahead_pool):
            pool.shutdown(wait=False, cancel_futures=True)


def _be_nice() -> None:
    with suppress(OSError):  # forbidden: then all are equal
        ours = os.getpriority(os.PRIO_PROCESS, 0)  # 0: this thread
        os.setpriority(os.PRIO_PROCESS, 0, ours + _AHEAD_NICENESS)
