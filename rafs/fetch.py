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
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

from native.dataplane import Blob
from rafs.backend import BlobBackend, read_exactly
from rafs.blob_meta import BlobMeta, Chunk
from rafs.blob_tail import DigestOf, Tail
from rafs.cache import CachedBlob
from rafs.chunk_state import RangedRequest, Run, plan_requests, runs_of, sort_misses, split_work
from rafs.codec import Compressor, chunk_digest, decode_chunk, verify_chunk
from rafs.errors import BlobCorrupt, RafsError
from rafs.fetch_resources import FetchLimits, FetchResources
from rafs.prefetch.lane import Lane, Turn

__all__ = ["FetchLimits", "FetchResources", "Fetcher", "OpenBlob"]

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(eq=False)
class OpenBlob:
    """A blob that is served: its chunk states (`native`), records, cache files and metadata."""

    native: Blob
    meta: BlobMeta
    cache: CachedBlob
    tail: Tail
    users: int = 1
    said_unverified: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    jobs: set[Future[object]] = field(default_factory=set)

    @property
    def blob_id(self) -> str:
        return self.meta.record.blob_id


class _Outcome:
    """What one piece of work came to. Made in a thread, read on the loop."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.failed: list[tuple[int, RafsError]] = []
        self.unverified = 0


class _Batch:
    """Chunks of one blob that are PENDING in our name, until each is completed or failed.

    `turn`: that of a prefetch, which has taken its part of the budget.
    """

    def __init__(
        self, blob: OpenBlob, runs: Iterable[Run], counters: Counter[str], turn: Turn | None = None
    ) -> None:
        self.turn = turn
        self._blob = blob
        self._counters = counters
        self._open = {index for first, count in runs for index in range(first, first + count)}
        self.first_error: RafsError | None = None

    def complete(self, chunk_idxs: Iterable[int]) -> None:
        for first, count in runs_of(sorted(self._open.intersection(chunk_idxs))):
            self._blob.native.complete(first, count)
            self._open.difference_update(range(first, first + count))

    def fail(self, chunk_idxs: Iterable[int], error: RafsError) -> None:
        reason = str(error).removeprefix(f"blob {self._blob.blob_id}: ")
        for first, count in runs_of(sorted(self._open.intersection(chunk_idxs))):
            which = f"chunk {first}" if count == 1 else f"chunks {first}-{first + count - 1}"
            log.error("blob %s %s: %s", self._blob.blob_id, which, reason)
            self._counters["failed_chunks"] += count
            self._drop(first, count)
        self.first_error = self.first_error or error

    def end(self) -> None:
        """Fail without a word what nobody dealt with: the daemon or the mount is going away, or a bug."""
        for first, count in list(runs_of(sorted(self._open))):
            self._drop(first, count)

    def _drop(self, first: int, count: int) -> None:
        self._blob.native.fail(first, count)
        self._open.difference_update(range(first, first + count))


class Fetcher:
    """Fetches chunks of a back-end's blobs. All methods run on the event loop; threads decode and write."""

    def __init__(self, backend: BlobBackend, resources: FetchResources) -> None:
        self._backend = backend
        self._pool = resources.pool
        self._ahead_pool = resources.ahead_pool
        self._limits = resources.limits
        self._budget = resources.budget
        self._counters: Counter[str] = Counter()
        self.lane = Lane()

    def submit(self, blob: OpenBlob, runs: list[Run]) -> asyncio.Task[None]:
        """Fetch chunks that the data plane has made PENDING. Returns at once."""
        batch = _Batch(blob, runs, self._counters)
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
                batch = _Batch(blob, runs, self._counters)
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
            self.lane.turn(stored if is_whole else 0) as turn,
            self._budget.spend(size, urgent=False),
        ):
            wanted = runs_of(sorted(chunk.chunk_idx for chunk in chunks))
            runs = [run for first, count in wanted for run in blob.native.claim(first, count)]
            turn.chunks = sum(count for _, count in runs)
            batch = _Batch(blob, runs, self._counters, turn)
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

    def _start(self, blob: OpenBlob, batch: _Batch, runs: list[Run], *, urgent: bool) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._serve(blob, batch, runs, urgent))
        blob.tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            blob.tasks.discard(task)
            batch.end()  # here, since a task that is cancelled before it ran never ran

        task.add_done_callback(done)
        return task

    async def _serve(self, blob: OpenBlob, batch: _Batch, runs: list[Run], urgent: bool) -> None:
        misses = sort_misses(runs, blob.meta, blob.native.is_ready)
        self._reuse(batch, misses.ready)
        for (first, count), error in misses.broken:
            batch.fail(range(first, first + count), error)
        wanted = misses.wanted
        try:
            digest_of = await blob.tail.load_digests() if wanted else None
            if digest_of is not None and blob.cache.had_data:
                wanted = await self._salvage(blob, batch, wanted, digest_of)
            requests = plan_requests(wanted, self._limits.merge)
            async with asyncio.TaskGroup() as group:
                for request in requests:
                    group.create_task(self._fetch(blob, batch, request, digest_of, urgent))
        except RafsError as error:
            batch.fail([chunk.chunk_idx for chunk in wanted], error)
        except Exception:
            log.exception("blob %s: fetching %d chunks failed", blob.blob_id, len(wanted))

    def _reuse(self, batch: _Batch, ready: Iterable[Run]) -> None:
        """Chunks that another process completed: their requests only have to look again."""
        for first, count in ready:
            self._counters["reused_chunks"] += count
            batch.complete(range(first, first + count))

    async def _salvage(
        self, blob: OpenBlob, batch: _Batch, wanted: list[Chunk], digest_of: DigestOf
    ) -> list[Chunk]:
        """Complete chunks whose right bytes lie in the data file without a READY bit; return the others."""

        def find() -> set[int]:
            found = {chunk.chunk_idx for chunk in wanted if _is_intact(blob, chunk, digest_of)}
            if found:
                blob.cache.prepare()
            return found

        with blob.cache.filling():
            found = await self._run(blob, find)
            batch.complete(found)
        self._counters["salvaged_chunks"] += len(found)
        return [chunk for chunk in wanted if chunk.chunk_idx not in found]

    async def _fetch(
        self, blob: OpenBlob, batch: _Batch, request: RangedRequest, digest_of: DigestOf | None, urgent: bool
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
        self, blob: OpenBlob, batch: _Batch, part: RangedRequest, digest_of: DigestOf | None
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
        self, blob: OpenBlob, batch: _Batch, request: RangedRequest, *, again: bool = False
    ) -> bytes:
        async def read_range(offset: int, length: int) -> bytes:
            data = await read_exactly(self._backend, blob.blob_id, offset, length, again=again)
            self._counters["requests"] += 1
            return data

        read = (batch.turn or self.lane).read(read_range, request.offset, request.length)
        if blob.cache.is_prepared:
            data = await read
        else:  # two fsyncs: not after the read but beside it
            data, _ = await asyncio.gather(read, self._run(blob, blob.cache.prepare))
        self._counters["fetched_bytes"] += len(data)
        return data

    async def _store(
        self, blob: OpenBlob, batch: _Batch, request: RangedRequest, data: bytes, digest_of: DigestOf | None
    ) -> dict[int, RafsError]:
        """Decode, verify, write and complete; return what is the matter with each chunk that failed."""
        failed: dict[int, RafsError] = {}

        async def work(piece: list[Chunk]) -> None:
            outcome = await self._run(
                blob, lambda: _decode(blob, request.offset, data, piece, digest_of), ahead=bool(batch.turn)
            )
            batch.complete(outcome.done)
            failed.update(outcome.failed)
            self._counters["fetched_chunks"] += len(outcome.done)
            self._counters["verified_chunks"] += len(outcome.done) - outcome.unverified
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

    async def _run(self, blob: OpenBlob, job: Callable[[], _Result], *, ahead: bool = False) -> _Result:
        """Run in a thread, and let `stop` know of it: a cancelled await does not end a thread."""
        future: Future[_Result] = (self._ahead_pool if ahead else self._pool).submit(job)
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


def _is_intact(blob: OpenBlob, chunk: Chunk, digest_of: DigestOf) -> bool:
    expected = digest_of(chunk.chunk_idx)
    if expected is None:
        return False
    data = blob.cache.read_unmarked(chunk)
    return data is not None and chunk_digest(data, blob.meta.record.digester) == expected


def _decode(
    blob: OpenBlob, offset: int, data: bytes, chunks: list[Chunk], digest_of: DigestOf | None
) -> _Outcome:
    """In a thread: decode, verify and write chunks out of `data`, which was read at `offset` of the blob."""
    outcome = _Outcome()
    record = blob.meta.record
    view = memoryview(data)
    for chunk in chunks:
        start = chunk.compressed_offset - offset
        stored = view[start : start + chunk.compressed_size]
        try:
            compressor = record.compressor if chunk.is_compressed else Compressor.NONE
            plain = decode_chunk(stored, compressor=compressor, size=chunk.uncompressed_size)
            expected = digest_of(chunk.chunk_idx) if digest_of else None
            if expected is None:
                outcome.unverified += 1
            else:
                verify_chunk(plain, record.digester, expected)
            blob.cache.write([(chunk, plain)])
            outcome.done.append(chunk.chunk_idx)
        except RafsError as error:
            outcome.failed.append((chunk.chunk_idx, error))
    return outcome
