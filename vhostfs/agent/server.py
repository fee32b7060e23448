"""The agent's composition root: one cache directory, its back-ends, and the workers that it fetches for."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from native.dataplane import ChunkStore
from rafs.backend import BlobBackend
from rafs.backend.config import Backend
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from rafs.backend.rate import RateLimit
from rafs.blob_record import BlobRecord
from rafs.blob_store import BlobStore
from rafs.cache_dir import CacheDir
from rafs.chunk_table import BootstrapChunks
from rafs.fetch_resources import FetchLimits, FetchResources
from rafs.limits import NO_LIMITS, CacheLimits
from rafs.metered import BackendStatistics
from rafs.open_blob import OpenBlob
from rafs.prefetch.statistics import PrefetchStatistics
from rafs.upcalls import Upcalls
from vhostfs.agent.bootstrap import SealedDigests
from vhostfs.agent.connection import Connection
from vhostfs.agent.misses import Misses
from vhostfs.agent.place import Peer
from vhostfs.agent.protocol import BackendFigures, Figures
from vhostfs.agent.session import Session
from vhostfs.agent.sources import Routes, Source, Sources, asking

log = logging.getLogger(__name__)

MAX_WORKERS = 4096
#: whoever had it started needs a moment to come
FIRST_WORKER_S = 10.0


class Agent:
    """`async with` makes it ready, `serve` accepts workers, `run` returns when it was idle, or at `stop`.

    `idle_timeout_s`: how long it goes on without a worker; None: for ever. `make` makes back-ends; the
    default is `rafs.backend.make`. `rate` bounds what each server is asked for. `cache_limits` are those of
    the cache directory whatever workers say; None: those that they agree on.
    """

    def __init__(
        self,
        cache_dir: Path,
        *,
        idle_timeout_s: float | None = None,
        make: Callable[[Backend], BlobBackend] | None = None,
        limits: FetchLimits | None = None,
        rate: RateLimit | None = None,
        cache_limits: CacheLimits | None = None,
    ) -> None:
        self.cache_dir = cache_dir
        self._idle_timeout_s = idle_timeout_s
        self._make = make
        self._limits = limits
        self._rate = rate
        self._cache_limits = cache_limits
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._sessions: set[Session] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._idle: asyncio.TimerHandle | None = None
        self.has_served = False  # a worker, and not only who looked whether we are there
        self._listener: socket.socket | None = None
        self._store: BlobStore | None = None
        self.misses: Misses

    async def __aenter__(self) -> Agent:
        """Raises CacheError."""
        stack = self._stack
        try:
            self._http = http = HttpPool(self._rate)
            stack.push_async_callback(http.close)
            self.sources = Sources(self._make or (lambda config: make_backend(config, http)))
            self.routes = Routes(self.sources)
            self._chunks = ChunkStore()
            stack.callback(self._chunks.close)
            self._resources = FetchResources(self._limits)
            stack.callback(self._resources.close)
            self._directory = CacheDir(self.cache_dir)
            stack.callback(self._directory.leave)
            stack.push_async_callback(self._close_store)
            stack.push_async_callback(self._hang_up)
        except BaseException:
            await stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def serve(self, listener: socket.socket) -> None:
        """Accept workers from a listening SOCK_SEQPACKET socket, which stays the caller's."""
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)
        self._wait_for_workers()

    async def run(self) -> None:
        """Until `stop`, or until there has been no worker for the idle time-out."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Accept nobody any more, and have `run` return."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener = None
        self._stopping.set()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # (gone again, or we have no descriptor left)
            log.warning("cannot accept a worker: %s", error.strerror)
            return
        self.welcome(sock)

    def welcome(self, sock: socket.socket) -> None:
        """Serve a worker at the other end of `sock`, which is taken over, if it is one of ours."""
        peer = Peer.of(sock)
        if not peer.is_one_of_us or len(self._sessions) >= MAX_WORKERS:
            log.error("process %d of user %d is not served", peer.pid, peer.uid)
            sock.close()
            return
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._sessions.add(Session(self, partial(Connection, sock), f"worker {peer.pid}"))
        log.info("worker %d has come", peer.pid)

    def ended(self, session: Session) -> None:
        """A worker has gone, or broken the protocol: let go of what it had."""
        task = asyncio.get_running_loop().create_task(self._end(session))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, session: Session) -> None:
        try:
            await session.close()
        finally:
            self._sessions.discard(session)
            self._wait_for_workers()

    async def _hang_up(self) -> None:
        await asyncio.gather(*(session.close() for session in list(self._sessions)))
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._idle is not None:
            self._idle.cancel()

    def _wait_for_workers(self) -> None:
        if self._sessions or self._idle_timeout_s is None or self._listener is None or self._idle is not None:
            return
        least = 0 if self.has_served else FIRST_WORKER_S
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(max(self._idle_timeout_s, least), self._end_of_idle)

    def _end_of_idle(self) -> None:
        self._idle = None
        if not self._sessions:
            log.info("no worker for %g s: ending", self._idle_timeout_s)
            self.stop()

    # what sessions do

    @property
    def store(self) -> BlobStore:
        """The blobs; once one was opened."""
        assert self._store is not None
        return self._store

    def _use(self, limits: CacheLimits) -> None:
        """Keep the cache within our own limits, else within those of the first worker. Raises CacheError."""
        limits = self._cache_limits or limits
        if self._store is not None:
            self._directory.check_limits(limits)
            return
        self._directory.join(limits, owner=True)
        self._store = BlobStore(self._directory, self.routes, Upcalls(self._chunks), self._resources)
        self._store.start()
        self.misses = Misses(self._store.fetch)

    async def _close_store(self) -> None:
        if self._store is not None:
            await self._store.close()

    async def open_blob(
        self,
        record: BlobRecord,
        chunks: SealedDigests | BootstrapChunks | None,
        source: Source,
        limits: CacheLimits = NO_LIMITS,
    ) -> OpenBlob:
        """Open a blob that `source` has. Raises RafsError."""
        self._use(limits)
        self.routes.add(record.blob_id, source)
        try:
            with asking(source):
                blob = await self.store.open_blob(record, digests=chunks)
        except BaseException:
            self.routes.remove(record.blob_id, source)
            raise
        blob.on_settled = partial(self._settled, blob)
        return blob

    def _settled(self, blob: OpenBlob, first: int, count: int, has_failed: bool) -> None:
        self.misses.settled(blob, first, count, has_failed=has_failed)

    async def close_blob(self, blob: OpenBlob, source: Source) -> None:
        """One user of it less."""
        await self.store.close_blob(blob)
        if blob.users == 0:
            self.misses.drop(blob)
        self.routes.remove(blob.blob_id, source)

    def figures(self, call: int, backend: BackendStatistics, prefetch: PrefetchStatistics) -> Figures:
        """The answer to AskFigures."""
        fetch = {} if self._store is None else self._store.statistics()
        cache = {} if self._store is None else self._directory.governor.statistics()
        return Figures(call, fetch, cache, dict(self._http.counters), BackendFigures.of(backend), prefetch)
