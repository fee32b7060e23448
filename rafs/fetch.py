"""From a miss to a READY chunk: merged ranged reads, decode and verify in threads, the data file, the bit.

`chunk_state.py` decides what to ask for; here it is done. Per batch of misses of one blob there is one task,
and one for each ranged request in it. What is in flight is bounded by a Budget; retries belong to the
back-end. Every chunk that is handed to `submit` or won by `fill` is completed or failed exactly once, also
when the task is cancelled or a bug strikes: a guest's request may be parked on it.

Order for each chunk: bytes, size, digest, data file, READY bit. A failure ends in `blob.fail` (the guest gets
EIO) and one line in the log; the next read of the guest tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from functools import partial
from typing import TypeVar

from rafs.backend import BlobBackend, read_exactly
from rafs.blob_meta import Chunk
from rafs.blob_tail import DigestOf
from rafs.chunk_state import RangedRequest, Run, plan_requests, runs_of, sort_misses, split_work
from rafs.errors import BlobCorrupt, RafsError
from rafs.fetch_resources import FetchLimits, FetchResources
from rafs.fill import Outcome, copy_from_others, decode, salvage
from rafs.governor import Governor
from rafs.open_blob import Batch, OpenBlob
from rafs.prefetch.lane import Lane, Turn

__all__ = ["FetchLimits", "FetchResources", "Fetcher"]

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class Fetcher:
    """Fetches chunks of a back-end's blobs. All methods run on the event loop; threads decode and write."""

    def __init__(self, backend: BlobBackend, resources: FetchResources, governor: Governor) -> None:
        self._backend = backend
        self._governor = governor
        self._pool = resources.pool
        self._ahead_pool = resources.ahead_pool
        self._limits = resources.limits
        self._budget = resources.budget
        self._counters: Counter[str] = Counter()
        self.lane = Lane()

    def begin(self, blob: OpenBlob) -> None:
        """Load the digests of a blob that is new here, before the first chunk needs them."""

        async def load() -> None:
            with suppress(RafsError):  # the first fetch tries again, and says so
                await blob.tail.load_digests()

        task = asyncio.get_running_loop().create_task(load())
        blob.tasks.add(task)
        task.add_done_callback(blob.tasks.discard)

    def submit(self, blob: OpenBlob, runs: list[Run]) -> asyncio.Task[None]:
        """Fetch chunks that the data plane has made PENDING. Returns at once."""
        batch = Batch(blob, runs, self._counters)
        return self._start(blob, batch, runs, urgent=True)

    async def fill(self, blob: OpenBlob, first: int, count: int) -> None:
        """Fetch what is ABSENT of a range ahead of need, with the lower priority.

        A part at a time: what is claimed here, a guest's read has to wait for. Chunks that somebody else has
        made PENDING are left to them. Raises the first error of a chunk, and leaves the rest.
        """
        record = blob.meta.record
        step = max(1, self._limits.fill_size * record.chunk_count // max(record.uncompressed_size, 1))
        parts = iter(range(first, first + count, step))

        async def work() -> None:
            for start in parts:
                part = blob.meta.described(start, min(step, first + count - start))
                runs = [run for described in part for run in blob.native.claim(*described)]
                batch = Batch(blob, runs, self._counters)
                await self._start(blob, batch, runs, urgent=False)
                if batch.first_error is not None:
                    raise batch.first_error

        results = await asyncio.gather(work(), work(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def fetch_ahead(self, blob: OpenBlob, chunks: Sequence[Chunk], *, is_whole: bool = False) -> Turn:
        """Fetch what is ABSENT of neighbouring chunks (one request's), when the link has room for it.

        They are claimed only then: before, a guest's read goes its own way. `is_whole`: in one read, however
        large. Returns what that took. Raises the first error of a chunk. When it is cancelled, what has been
        claimed is fetched still.
        """
        stored = sum(chunk.compressed_size for chunk in chunks)
        size = stored + sum(chunk.uncompressed_size for chunk in chunks)
        async with (
            self.lane.turn(stored, is_whole=is_whole) as turn,
            self._budget.spend(size, urgent=False),
        ):
            wanted = runs_of(sorted(chunk.chunk_idx for chunk in chunks))
            runs = [run for first, count in wanted for run in blob.native.claim(first, count)]
            turn.chunks = sum(count for _, count in runs)
            batch = Batch(blob, runs, self._counters, turn)
            task = self._start(blob, batch, runs, urgent=False)
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait([task])
                raise
        if batch.first_error is not None:
            raise batch.first_error
        return turn

    async def stop(self, blob: OpenBlob) -> None:
        """Cancel what is going on for a blob, fail its chunks, and wait until no thread touches its files."""
        for task in blob.tasks:
            task.cancel()
        await asyncio.gather(*blob.tasks, return_exceptions=True)
        await asyncio.gather(*(asyncio.wrap_future(job) for job in list(blob.jobs)), return_exceptions=True)

    def statistics(self) -> dict[str, int]:
        """Return counters since the start, and what is in flight (`..._in_flight`) or waiting to be."""
        return {name: self._counters[name] for name in _COUNTERS} | {
            "requests_in_flight": self._budget.requests_in_flight,
            "requests_waiting": self._budget.waiting,
            "bytes_in_flight": self._budget.bytes_in_flight,
            **self.lane.statistics(),
        }

    def _start(self, blob: OpenBlob, batch: Batch, runs: list[Run], *, urgent: bool) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._serve(blob, batch, runs, urgent))
        blob.tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            blob.tasks.discard(task)
            batch.end()  # here, since a task that is cancelled before it ran never ran

        task.add_done_callback(done)
        return task

    async def _serve(self, blob: OpenBlob, batch: Batch, runs: list[Run], urgent: bool) -> None:
        misses = sort_misses(runs, blob.meta, blob.native.is_ready)
        self._reuse(batch, misses.ready)
        for (first, count), error in misses.broken:
            batch.fail(range(first, first + count), error)
        wanted = misses.wanted
        try:
            digest_of = await blob.tail.load_digests() if wanted else None
            if digest_of is not None and blob.cache.had_data:
                wanted = await self._salvage(blob, batch, wanted, digest_of)
            if digest_of is not None and wanted:
                wanted = await self._deduplicate(blob, batch, wanted, digest_of)
            requests = plan_requests(wanted, self._limits.merge)
            async with asyncio.TaskGroup() as group:
                for request in requests:
                    group.create_task(self._fetch(blob, batch, request, digest_of, urgent))
        except RafsError as error:
            batch.fail([chunk.chunk_idx for chunk in wanted], error)
        except Exception:
            log.exception("blob %s: fetching %d chunks failed", blob.blob_id, len(wanted))

    def _reuse(self, batch: Batch, ready: Iterable[Run]) -> None:
        """Chunks that another process completed: their requests only have to look again."""
        for first, count in ready:
            self._counters["reused_chunks"] += count
            batch.let_go(range(first, first + count))

    async def _salvage(
        self, blob: OpenBlob, batch: Batch, wanted: list[Chunk], digest_of: DigestOf
    ) -> list[Chunk]:
        """Complete chunks whose right bytes lie in the data file without a READY bit; return the others."""
        with blob.cache.filling():
            outcome = await self._fill(blob, batch, digest_of, lambda: salvage(blob, wanted, digest_of))
        self._counters["salvaged_chunks"] += outcome.done
        return [chunk for chunk in wanted if chunk.chunk_idx in batch]

    async def _deduplicate(
        self, blob: OpenBlob, batch: Batch, wanted: list[Chunk], digest_of: DigestOf
    ) -> list[Chunk]:
        """Complete chunks that another blob of the cache directory holds; return the others."""
        dedup = self._governor.dedup
        if dedup is None:
            return wanted
        digests = ((chunk, digest_of(chunk.chunk_idx)) for chunk in wanted)
        likely = [chunk for chunk, digest in digests if digest is not None and dedup.may_have(digest)]
        if likely:
            with blob.cache.filling():
                await self._fill(
                    blob,
                    batch,
                    digest_of,
                    lambda: copy_from_others(blob, self._governor, dedup, likely, digest_of),
                )
        return [chunk for chunk in wanted if chunk.chunk_idx in batch]

    async def _fetch(
        self, blob: OpenBlob, batch: Batch, request: RangedRequest, digest_of: DigestOf | None, urgent: bool
    ) -> None:
        """Fetch one planned request; its chunks are completed or failed when this returns."""
        spent = request.length + request.plain_size
        try:
            async with nullcontext() if batch.turn else self._budget.spend(spent, urgent=urgent):
                # it may have waited long
                ready = [c.chunk_idx for c in request.chunks if blob.native.is_ready(c.chunk_idx)]
                self._reuse(batch, runs_of(sorted(ready)))
                rest = [c for c in request.chunks if c.chunk_idx not in ready] if ready else request.chunks
                for part in plan_requests(rest, self._limits.merge) if ready else [request]:
                    await self._fetch_part(blob, batch, part, digest_of)
        except RafsError as error:
            batch.fail([chunk.chunk_idx for chunk in request.chunks], error)

    async def _fetch_part(
        self, blob: OpenBlob, batch: Batch, part: RangedRequest, digest_of: DigestOf | None
    ) -> None:
        """Read and store; what comes with wrong bytes is asked for once more, elsewhere if possible."""
        failed = await self._store(blob, batch, part, await self._read(blob, batch, part), digest_of)
        wrong = {index: error for index, error in failed.items() if isinstance(error, BlobCorrupt)}
        for index in failed.keys() - wrong.keys():
            batch.fail([index], failed[index])
        for request in plan_requests([c for c in part.chunks if c.chunk_idx in wrong], self._limits.merge):
            data = await self._read(blob, batch, request, again=True)
            failed = await self._store(blob, batch, request, data, digest_of)
            for chunk in request.chunks:
                if error := failed.get(chunk.chunk_idx):
                    batch.fail([chunk.chunk_idx], error)
                else:
                    self._counters["reread_chunks"] += 1
                    reason = wrong[chunk.chunk_idx]
                    log.warning(
                        "blob %s chunk %d: came right the second time, first: %s",
                        blob.blob_id,
                        chunk.chunk_idx,
                        reason,
                    )

    async def _read(
        self, blob: OpenBlob, batch: Batch, request: RangedRequest, *, again: bool = False
    ) -> bytes:
        async def read_range(offset: int, length: int) -> bytes:
            data = await read_exactly(self._backend, blob.blob_id, offset, length, again=again)
            self._counters["requests"] += 1
            return data

        read = (batch.turn or self.lane).read(read_range, request.offset, request.length)
        if blob.cache.is_prepared:
            data = await read
        else:  # two fsyncs: not after the read but beside it
            data, _ = await asyncio.gather(read, self._run(blob, blob.cache.try_prepare))
        self._counters["fetched_bytes"] += len(data)
        return data

    async def _store(
        self, blob: OpenBlob, batch: Batch, request: RangedRequest, data: bytes, digest_of: DigestOf | None
    ) -> dict[int, RafsError]:
        """Decode, verify, write and complete; return what is the matter with each chunk that failed."""
        failed: dict[int, RafsError] = {}

        async def work(piece: list[Chunk]) -> None:
            outcome = await self._fill(
                blob,
                batch,
                digest_of,
                lambda: decode(blob, self._governor, request.offset, data, piece, digest_of),
            )
            failed.update(outcome.failed)
            self._counters["fetched_chunks"] += outcome.done
            self._counters["verified_chunks"] += outcome.done - outcome.unverified
            self._counters["unverified_chunks"] += outcome.unverified
            if outcome.unverified and not blob.said_unverified:
                blob.said_unverified = True
                log.warning(
                    "blob %s: the image carries no chunk digests; its data is not verified", blob.blob_id
                )

        in_order = sorted(request.chunks)
        with blob.cache.filling():
            await asyncio.gather(*map(work, split_work(in_order, self._limits.work_size)))
        return failed

    async def _fill(
        self, blob: OpenBlob, batch: Batch, digest_of: DigestOf | None, job: Callable[[], Outcome]
    ) -> Outcome:
        """Have chunks filled in a thread, and complete them."""
        future = (self._ahead_pool if batch.turn else self._pool).submit(job)
        try:
            outcome = await self._wait(blob, future)
        except asyncio.CancelledError:
            future.add_done_callback(partial(_end_filling, blob))
            raise
        on_disk = [chunk for chunk in outcome.on_disk if chunk.chunk_idx in batch]
        batch.complete(chunk.chunk_idx for chunk in on_disk)
        batch.complete((chunk.chunk_idx for chunk in outcome.in_memory), in_memory=True)
        blob.space.guard.end(outcome.begun)
        self._governor.completed(blob.space, on_disk)
        if self._governor.dedup is not None and digest_of is not None:
            for chunk in on_disk:
                if (digest := digest_of(chunk.chunk_idx)) is not None:
                    self._governor.dedup.add(blob.blob_id, chunk.chunk_idx, digest)
        return outcome

    async def _run(self, blob: OpenBlob, job: Callable[[], _Result]) -> _Result:
        """Run in a thread, and let `stop` know of it: a cancelled await does not end a thread."""
        return await self._wait(blob, self._pool.submit(job))

    async def _wait(self, blob: OpenBlob, future: Future[_Result]) -> _Result:
        blob.jobs.add(future)  # type: ignore[arg-type]
        future.add_done_callback(blob.jobs.discard)
        return await asyncio.wrap_future(future)


_COUNTERS = (
    "requests",
    "fetched_bytes",
    "fetched_chunks",
    "verified_chunks",
    "unverified_chunks",
    "reused_chunks",
    "salvaged_chunks",
    "reread_chunks",
    "failed_chunks",
)


def _end_filling(blob: OpenBlob, future: Future[Outcome]) -> None:
    """Nobody waits for it any more: what it wrote is not completed."""
    if not future.cancelled() and not future.exception():
        blob.space.guard.end(future.result().begun)
