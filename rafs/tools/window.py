"""Work for threads, a bounded number of pieces ahead: so memory and descriptors are bounded too."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future


class Window:
    """At most `size` pieces of work wait or run. The first error comes out of a later call."""

    def __init__(self, executor: Executor, size: int) -> None:
        self._executor = executor
        self._size = size
        self._under_way: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None]) -> None:
        """Begin `work` in a thread, when there is room."""
        while len(self._under_way) >= self._size:
            self._under_way.popleft().result()
        self._under_way.append(self._executor.submit(work))

    def finish(self) -> None:
        """Wait for all."""
        while self._under_way:
            self._under_way.popleft().result()

    def drain(self) -> None:
        """Wait for all, whatever comes of them: each may own a descriptor."""
        while self._under_way:
            self._under_way.popleft().exception()
