"""The blobs of one back-end in one cache directory: opens them, serves their misses, ends clean.

    upcalls = Upcalls(ChunkStore())
    upcalls.start()                                 # on the event loop
    cache_dir = CacheDir(path)
    cache_dir.join(CacheLimits(quota=10 << 30))
    store = BlobStore(cache_dir, backend, upcalls, FetchResources())
    store.start()
    blob = await store.open_blob(record)            # blob.native is what the data plane takes
    ...
    await store.close()                             # after the devices that use its blobs

Any number of stores may share the ring (`Upcalls`) and what fetching may use (`FetchResources`). Images that
share a blob share one OpenBlob. A blob that is closed is put on disk (`CachedBlob.settle`), and
so is, every few seconds, one that was written to and is quiet now: a daemon that is killed then leaves
little to re-verify after power loss.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from native.dataplane import Blob
from rafs.backend import BlobBackend
from rafs.blob_record import BlobRecord
from rafs.blob_tail import BlobTail, Digests, Tail
from rafs.cache import CachedBlob
from rafs.cache_dir import CacheDir
from rafs.chunk_state import Run
from rafs.chunk_table import BootstrapChunks, ChunkTable
from rafs.errors import ImageCorrupt, RafsError
from rafs.fetch import Fetcher, FetchResources
from rafs.governor import COUNT_INTERVAL_S
from rafs.open_blob import OpenBlob
from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.plan import Stage
from rafs.prefetch.prefetcher import Prefetcher
from rafs.scrub import Scrubber
from rafs.upcalls import Upcalls

log = logging.getLogger(__name__)

SETTLE_INTERVAL_S = 5.0
#: how long `close` waits for the disk; SIGTERM has to end within a second
SETTLE_DEADLINE_S = 0.5


class BlobStore:
    """See the module. `cache_dir` (joined), `upcalls` and `resources` are the caller's, and shared."""

    def __init__(
        self,
        cache_dir: CacheDir,
        backend: BlobBackend,
        upcalls: Upcalls,
        resources: FetchResources,
    ) -> None:
        self._cache_dir = cache_dir
        self._governor = cache_dir.governor
        self._backend = backend
        self._upcalls = upcalls
        self._pool = resources.pool
        self._fetcher = Fetcher(backend, resources, cache_dir.governor)
        self._blobs: dict[str, OpenBlob] = {}
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._prefetchers: set[Prefetcher] = set()
        self._in_doubt = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to put quiet blobs on disk, and to tend and check the cache, on the running loop."""
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._settle_now_and_then()))
        if rate := self._governor.limits.scrub_rate:
            scrubber = Scrubber(self._governor, lambda blob, chunk: self.fill(blob, chunk, 1), rate=rate)
            self._tasks.append(loop.create_task(scrubber.run(self._blobs.values)))

    async def open_blob(
        self, entry: Any, *, blob_id: str | None = None, digests: Digests | BootstrapChunks | None = None
    ) -> OpenBlob:
        """Open one blob of an image: `entry` is its parsed `struct rafs_v6_blob` or a BlobRecord.

        `blob_id` replaces the id in the entry (1.6); `digests` are those of the bootstrap's chunk table, and
        of v5 all that it says of the blob's chunks (`rafs.Image.bootstrap_chunks`). Every call is matched by
        one of `close_blob`. Raises RafsError.
        """
        record = entry if isinstance(entry, BlobRecord) else BlobRecord.parse(entry, blob_id=blob_id)
        if isinstance(digests, BootstrapChunks) != (record.fs_version == 5):
            raise TypeError(f"blob {record.blob_id} of a v{record.fs_version} image with {type(digests)}")
        async with self._opening[record.blob_id]:
            blob = self._blobs.get(record.blob_id)
            if blob is None:
                blob = await self._open(record, digests)
                self._blobs[record.blob_id] = blob
                self._upcalls.add(blob.native.handle, partial(self._fetcher.submit, blob))
                if blob.tail.is_fresh:
                    self._fetcher.begin(blob)
            else:
                _check_same(blob.meta.record, record)
                await blob.tail.add_bootstrap(digests)
                _forget_doubtful(blob.tail, blob.native)
                blob.users += 1
        return blob

    async def _open(self, record: BlobRecord, digests: Digests | BootstrapChunks | None) -> OpenBlob:
        # not in the pool: it may wait for another process's lock
        opening = asyncio.ensure_future(asyncio.to_thread(self._cache_dir.open, record))
        try:
            cache = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_cache)  # a thread cannot be cancelled
            raise
        with ExitStack() as undo:
            undo.callback(cache.close)
            tail: Tail
            if isinstance(digests, BootstrapChunks):
                tail = ChunkTable(cache, self._pool, digests)
            else:
                tail = BlobTail(cache, self._backend, self._pool, digests)
            undo.callback(tail.close)
            meta = await tail.load_meta()
            native = Blob(
                self._upcalls.chunks,
                data_fd=cache.data_fd,
                chunk_map_fd=cache.chunk_map_fd,
                meta_fd=tail.meta_fd,
                chunk_count=record.chunk_count,
                uncompressed_size=record.uncompressed_size,
            )
            undo.callback(native.close)
            _forget_doubtful(tail, native)
            space = self._governor.open(cache, native, meta)
            undo.callback(self._governor.close, space)
            await asyncio.to_thread(self._governor.adopt, space)
            undo.pop_all()
        if cache.in_doubt:
            self._in_doubt += cache.in_doubt
            log.warning(
                "blob %s: the machine stopped before its cache was on disk; "
                "%d chunks are verified again when they are wanted",
                record.blob_id,
                cache.in_doubt,
            )
        return OpenBlob(native, meta, cache, space, tail)

    async def close_blob(self, blob: OpenBlob) -> None:
        """One user less; with the last one, the blob is put on disk and closed."""
        async with self._opening[blob.blob_id]:
            blob.users -= 1
            if blob.users == 0:
                await self._close(blob)

    async def _close(self, blob: OpenBlob) -> None:
        blob.is_closing = True
        del self._blobs[blob.blob_id]
        self._upcalls.remove(blob.native.handle)
        await self._fetcher.stop(blob)
        await asyncio.to_thread(self._governor.close, blob.space)
        blob.native.close()
        blob.tail.close()
        await _within(SETTLE_DEADLINE_S, lambda: _settle_and_close(blob.cache))

    def fetch(self, blob: OpenBlob, runs: list[Run]) -> asyncio.Task[None]:
        """Fetch chunks that were claimed; returns at once. `blob.on_settled` tells of each."""
        return self._fetcher.submit(blob, runs)

    async def fill(self, blob: OpenBlob, first: int = 0, count: int | None = None) -> None:
        """Fetch what is missing of a range of chunks (default: all). Raises the first error of a chunk."""
        await self._fetcher.fill(
            blob, first, blob.meta.record.chunk_count - first if count is None else count
        )

    def prefetch(
        self, blobs: Sequence[OpenBlob], plan: Sequence[Stage], options: PrefetchOptions
    ) -> Prefetcher:
        """Begin to fetch ahead by a plan whose blob indices are those of `blobs`; returns at once.

        `cancel` it before these blobs are closed.
        """
        prefetcher = Prefetcher(self._fetcher, blobs, plan, options)
        self._prefetchers.add(prefetcher)
        prefetcher.start(lambda: self._prefetchers.discard(prefetcher))
        return prefetcher

    async def stop(self) -> None:
        """Fail what is on its way: requests that wait for it are answered EIO. Stop `Upcalls` first."""
        prefetchers = list(self._prefetchers)
        for prefetcher in prefetchers:
            prefetcher.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._fetcher.stop(blob) for blob in list(self._blobs.values())))
        await asyncio.gather(*(prefetcher.wait() for prefetcher in prefetchers))

    async def close(self) -> None:
        """`stop`, and put the blobs on disk; a slow disk is not waited for.

        The back-end is the caller's to close.
        """
        await self.stop()
        await asyncio.gather(*(self._close(blob) for blob in list(self._blobs.values())))

    def statistics(self) -> dict[str, int]:
        """Return the fetcher's statistics, `open_blobs`, and `in_doubt_chunks` found after unclean stops.

        Those of the cache directory are its governor's.
        """
        own = {"open_blobs": len(self._blobs), "in_doubt_chunks": self._in_doubt}
        return self._fetcher.statistics() | own

    # settling

    async def _settle_now_and_then(self) -> None:
        while True:
            for _ in range(round(SETTLE_INTERVAL_S / COUNT_INTERVAL_S)):
                await asyncio.sleep(COUNT_INTERVAL_S)
                await asyncio.to_thread(self._governor.tend)
            await self.settle()

    async def settle(self) -> None:
        """Put on disk what was written and is quiet now."""
        for blob in list(self._blobs.values()):
            if blob.cache.is_unsettled and not blob.tasks:
                await asyncio.to_thread(_settle, blob.cache)


def _settle(cache: CachedBlob) -> None:
    try:
        cache.settle()
    except RafsError as error:
        log.error("%s; its chunks will be verified again after the next start", error)


def _settle_and_close(cache: CachedBlob) -> None:
    _settle(cache)
    cache.close()


def _close_cache(opening: asyncio.Future[CachedBlob]) -> None:
    if opening.exception() is None:
        opening.result().close()


async def _within(seconds: float, work: Callable[[], None]) -> None:
    """Run `work` in a thread; wait for it no longer than that, and let the thread not hold up our exit."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        work()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, daemon=True, name="blob-settle").start()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), seconds)


def _forget_doubtful(tail: Tail, native: Blob) -> None:
    for first, count in tail.take_doubtful():
        native.forget(first, count)


def _check_same(open_record: BlobRecord, record: BlobRecord) -> None:
    """Two images may know one blob; what they say about its cache files and metadata must agree."""
    for name in (
        "fs_version",
        "chunk_count",
        "uncompressed_size",
        "compressor",
        "digester",
        "ci_offset",
        "ci_compressed_size",
        "ci_uncompressed_size",
        "ci_compressor",
        "ci_record_size",
        "toc_digest",
    ):
        ours, theirs = getattr(open_record, name), getattr(record, name)
        if ours != theirs:
            raise ImageCorrupt(f"blob {record.blob_id}: {name} is {theirs}, a mounted image says {ours}")
