"""Prefetches the blobs of one mount by a plan, in the background, until it is through or is stopped.

`workers` take requests from the ordered list one after the other and hand them to the fetcher, which lets
them in when the link has room (lane.py). An error of the back-end is not repeated for each chunk: the worker
that met it waits, longer each time, and after MAX_FAILURES in a row everything stops. Whatever happens here,
reads of guests fetch for themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from rafs.errors import RafsError
from rafs.fetch import Fetcher
from rafs.open_blob import OpenBlob
from rafs.prefetch.options import MAX_WORKERS, PrefetchOptions
from rafs.prefetch.order import OrderLimits, Request, order_requests
from rafs.prefetch.pace import Pace
from rafs.prefetch.plan import Stage
from rafs.prefetch.precision import Precision
from rafs.prefetch.statistics import PrefetchStatistics

log = logging.getLogger(__name__)

MAX_FAILURES = 5
FAILURE_PAUSE_S = 0.5
#: stored bytes within which requests may change places; fewer where the order is what counts
WINDOW_SIZE = 8 << 20
LEARNED_WINDOW_SIZE = 2 << 20
STREAM_SIZE = 4 << 20


class _Ended(Exception):
    """Nothing more is to be prefetched; the text says why."""


class Prefetcher:
    """`start` on the running loop; `cancel` before the blobs are closed. See the module."""

    def __init__(
        self,
        fetcher: Fetcher,
        blobs: Sequence[OpenBlob],
        plan: Sequence[Stage],
        options: PrefetchOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.statistics = PrefetchStatistics()
        self._fetcher = fetcher
        self._blobs = blobs
        self._plan = plan
        self._options = options
        self._clock = clock
        self._sleep = sleep
        largest = max((blob.meta.record.chunk_size for blob in blobs), default=0)
        limit = options.bandwidth_limit
        self._pace = Pace(max(limit, largest) if limit else 0)
        self._failures = 0
        self._precision = Precision([])
        self._task: asyncio.Task[None] | None = None

    def start(self, on_end: Callable[[], None]) -> None:
        """Begin; returns at once. `on_end` is called when it is through or was cancelled."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(lambda _: on_end())

    def cancel(self) -> None:
        """Ask for nothing more. What is on its way arrives still."""
        if self._task is not None:
            self._task.cancel()

    async def wait(self) -> None:
        """Until it is through, or has been cancelled."""
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        statistics = self.statistics
        statistics.began_at = time.time()
        try:
            for stage in self._plan:
                await self._run_stage(stage)
        except* _Ended as group:
            statistics.stopped_by = str(group.exceptions[0])
            log.warning("prefetch stopped: %s", statistics.stopped_by)
        except* Exception:
            log.exception("prefetch stopped")
        finally:
            statistics.workers = 0
            statistics.ended_at = time.time()

    async def _run_stage(self, stage: Stage) -> None:
        is_stream = self._options.stream and not stage.is_learned
        requests = order_requests(
            stage.runs,
            [blob.meta for blob in self._blobs],
            lambda blob_index, chunk: not self._blobs[blob_index].native.is_ready(chunk),
            lambda: self._limits(stage, is_stream),
        )
        if stage.is_learned:
            self._precision = Precision([blob.native for blob in self._blobs])
        if stage.is_learned:  # small files in a row: many small requests
            count = MAX_WORKERS
        else:
            count = 1 if is_stream else min(self._options.workers, MAX_WORKERS)
        self.statistics.workers = count
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._work(requests, stage, is_stream))

    def _limits(self, stage: Stage, is_stream: bool) -> OrderLimits:
        if is_stream:
            return OrderLimits(2 * STREAM_SIZE, STREAM_SIZE)
        window = LEARNED_WINDOW_SIZE if stage.is_learned else WINDOW_SIZE
        return OrderLimits(window, min(max(self._options.batch_size, 1), self._fetcher.lane.piece))

    async def _work(self, requests: Iterator[Request], stage: Stage, is_stream: bool) -> None:
        for request in requests:
            stored = sum(chunk.compressed_size for chunk in request.chunks)
            if (pause := self._pace.spend(self._clock(), stored)) > 0:
                await self._sleep(pause)
            if stage.is_learned and self.judge().is_low:
                raise _Ended(f"only {self.judge().share:.0%} of what the trace has fetched is read")
            if await self._fetch(request, is_stream) and stage.is_learned:
                indices = (chunk.chunk_idx for chunk in request.chunks)
                self._precision.add(request.blob_index, zip(request.ranks, indices, strict=True))

    def judge(self) -> Precision:
        """Look at what was read meanwhile of what a trace had fetched, for the statistics."""
        self._precision.judge()
        self.statistics.judged, self.statistics.useful = self._precision.judged, self._precision.useful
        return self._precision

    async def _fetch(self, request: Request, is_whole: bool) -> bool:
        """Whether it is there now."""
        statistics, began = self.statistics, self._clock()
        try:
            turn = await self._fetcher.fetch_ahead(
                self._blobs[request.blob_index], request.chunks, is_whole=is_whole
            )
        except RafsError as error:
            statistics.failed_requests += 1
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise _Ended(f"{MAX_FAILURES} requests in a row failed: {error}") from None
            await self._sleep(FAILURE_PAUSE_S * 2**self._failures)
            return False
        self._failures = 0
        statistics.requests += turn.requests
        statistics.read_bytes += turn.read_bytes
        statistics.chunks += turn.chunks
        statistics.unmerged_chunks += turn.chunks == 1
        statistics.seconds += self._clock() - began
        return True
