"""One worker, as its agent sees it: what it says is checked, what it asks for is done, what it breaks is its.

A worker that breaks the protocol or its rings is hung up on, which closes its blobs; nobody else notices.
No more chunks are taken from its ring than there is room for in its completion ring, so it hears of each.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from native.dataplane import RingFds, Upcall, WorkerRings
from rafs.errors import RafsError
from rafs.metered import BackendStatistics
from rafs.open_blob import OpenBlob
from rafs.prefetch.prefetcher import Prefetcher
from rafs.prefetch.statistics import PrefetchStatistics
from vhostfs.agent import protocol
from vhostfs.agent.bootstrap import unpack_chunks, unpack_plan
from vhostfs.agent.connection import Connection
from vhostfs.agent.protocol import (
    Adjust,
    AskFigures,
    CloseBlob,
    Done,
    Hello,
    Message,
    Opened,
    Prefetch,
    ProtocolError,
    Refused,
    Request,
    StopPrefetch,
    Welcome,
)
from vhostfs.agent.protocol import (
    OpenBlob as OpenRequest,
)
from vhostfs.agent.sources import Source, asking
from virtqueue.fd import Fd

if TYPE_CHECKING:
    from vhostfs.agent.server import Agent

log = logging.getLogger(__name__)

#: requests of one worker that are being dealt with
MAX_CALLS = 256
#: blobs that one worker may have open: hundreds of images
MAX_BLOBS = 8192
#: how often a ring is looked at whose worker does not read its completions
STALLED_S = (0.002, 0.1)
#: a worker that asks for what is there already gets this part of the time that it costs, and no more
USELESS_SHARE = 0.2


class ServedBlob:
    """A blob that the worker has open, by the worker's handle. An Asker."""

    def __init__(self, session: Session, handle: int, blob: OpenBlob, source: Source) -> None:
        self.session = session
        self.handle = handle
        self.blob = blob
        self.source = source

    def settled(self, first: int, count: int, has_failed: bool) -> None:
        self.session.complete(self.handle, first, count, has_failed)


class Session:
    """From the accepted connection to `close`. `on_end` is called once, when the worker is gone."""

    def __init__(self, agent: Agent, connection: Callable[..., Connection], name: str) -> None:
        self._agent = agent
        self._name = name
        self._connection = connection(self._on_message, self._on_hang_up)
        self._rings: WorkerRings | None = None
        self._blobs: dict[int, ServedBlob] = {}
        self._opening: set[int] = set()
        self._prefetchers: dict[int, tuple[Prefetcher, frozenset[int]]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._taken: deque[Upcall] = deque()
        self._outstanding = 0
        self._is_reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._stalled_s = STALLED_S[0]
        self._is_closed = False

    # what the worker says

    def _on_message(self, data: bytes, fds: list[Fd]) -> None:
        try:
            request = protocol.decode_request(data, len(fds))
            if isinstance(request, Hello):
                self._begin(request, fds)
            elif self._rings is None:
                raise ProtocolError(f"{type(request).__name__} before hello")
            elif len(self._calls) >= MAX_CALLS:
                raise ProtocolError(f"more than {MAX_CALLS} requests at once")
            else:
                self._start(request, [Fd(fd.take()) for fd in fds])
        except ProtocolError as error:
            self._end(str(error))

    def _begin(self, hello: Hello, fds: list[Fd]) -> None:
        if self._rings is not None:
            raise ProtocolError("hello, again")
        if hello.version != protocol.VERSION:
            reason = f"the agent speaks version {protocol.VERSION}, the worker {hello.version}: restart both"
            self._send(Refused(0, reason))
            return
        try:
            self._rings = WorkerRings(RingFds(*(fd.fileno() for fd in fds)))
        except OSError as error:
            raise ProtocolError(str(error)) from error
        self._agent.has_served = True
        self._send(Welcome(protocol.VERSION))
        self._read(True)

    def _start(self, request: Request, fds: list[Fd]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(request, fds))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _answer(self, request: Request, fds: list[Fd]) -> None:
        assert not isinstance(request, Hello)
        try:
            if isinstance(request, OpenRequest):
                await self._open(request, fds)
            elif isinstance(request, CloseBlob):
                await self._close_blob(request.handle)
                self._send(Done(request.call))
            elif isinstance(request, Adjust):
                await self._adjust(request)
            elif isinstance(request, Prefetch):
                self._prefetch(request, fds[0].fileno())
            elif isinstance(request, StopPrefetch):
                self._stop_prefetch(request)
            else:
                self._send(self._figures(request))
        except ProtocolError as error:
            self._end(str(error))
        except (RafsError, OSError) as error:
            self._send(Refused(request.call, str(error)))
        except Exception:
            log.exception("%s: a request failed", self._name)
            self._send(Refused(request.call, "the agent failed; its log says how"))
        finally:
            for fd in fds:
                fd.close()

    async def _open(self, request: OpenRequest, fds: list[Fd]) -> None:
        handle = request.handle
        if handle in self._blobs or handle in self._opening:
            raise ProtocolError(f"handle {handle}, again")
        if len(self._blobs) + len(self._opening) >= MAX_BLOBS:
            raise ProtocolError(f"more than {MAX_BLOBS} blobs")
        self._opening.add(handle)
        try:
            record = request.entry.record()
            chunks = unpack_chunks(record, request.told, fds[-1].fileno() if request.told else -1)
            files = dict(zip(request.files, fds, strict=False))
            source = self._agent.sources.acquire(request.backend, files, request.settings)
            try:
                blob = await self._agent.open_blob(record, chunks, source, request.limits)
            except BaseException:
                await self._agent.sources.release(source)
                raise
            self._blobs[handle] = ServedBlob(self, handle, blob, source)
        finally:
            self._opening.discard(handle)
        mapped = _readable_fds(blob)
        try:
            self._send(Opened(request.call), [*mapped, blob.space.memory.visited_fd])
        finally:
            for fd in mapped:
                os.close(fd)

    async def _close_blob(self, handle: int) -> None:
        served = self._served(handle)
        del self._blobs[handle]
        # The worker has stopped them, or it had no time to: it gave up while it asked for one.
        for number in [number for number, (_, handles) in self._prefetchers.items() if handle in handles]:
            self._prefetchers.pop(number)[0].cancel()
        await self._let_go(served)

    async def _let_go(self, served: ServedBlob) -> None:
        self._agent.misses.forget(served.blob, served)
        await self._agent.close_blob(served.blob, served.source)
        await self._agent.sources.release(served.source)

    async def _adjust(self, request: Adjust) -> None:
        for handle in request.handles:
            served = self._served(handle)
            before = served.source
            served.source = self._agent.sources.adjusted(before, request.settings)
            self._agent.routes.add(served.blob.blob_id, served.source)
            self._agent.routes.remove(served.blob.blob_id, before)
            await self._agent.sources.release(before)
        self._send(Done(request.call))

    def _prefetch(self, request: Prefetch, plan_fd: int) -> None:
        if request.number in self._prefetchers or len(self._prefetchers) >= MAX_BLOBS:
            raise ProtocolError(f"prefetch {request.number}, again, or too many of them")
        blobs = [self._served(handle).blob for handle in request.handles]
        plan = unpack_plan(plan_fd)
        for run in (run for stage in plan for run in stage.runs):
            if not 0 <= run.blob_index < len(blobs):
                raise ProtocolError(f"prefetch of blob {run.blob_index} of {len(blobs)}")
            _check_run(blobs[run.blob_index], run.first_chunk, run.chunk_count)
        with asking(self._served(request.handles[0]).source):
            prefetcher = self._agent.store.prefetch(blobs, plan, request.options)
        self._prefetchers[request.number] = (prefetcher, frozenset(request.handles))
        self._send(Done(request.call))

    def _stop_prefetch(self, request: StopPrefetch) -> None:
        if request.number not in self._prefetchers:
            raise ProtocolError(f"no prefetch {request.number} to stop")
        self._prefetchers.pop(request.number)[0].cancel()
        self._send(Done(request.call))

    def _figures(self, request: AskFigures) -> Message:
        source = self._served(request.handles[0]).source if request.handles else None
        prefetcher, _ = self._prefetchers.get(request.prefetch, (None, None))
        if prefetcher is not None:
            prefetcher.judge()
        return self._agent.figures(
            request.call,
            BackendStatistics() if source is None else source.backend.statistics,
            PrefetchStatistics() if prefetcher is None else prefetcher.statistics,
        )

    def _served(self, handle: int) -> ServedBlob:
        served = self._blobs.get(handle)
        if served is None:
            raise ProtocolError(f"no blob {handle}")
        return served

    # what it asks for by its ring

    def _read(self, wanted: bool) -> None:
        if self._rings is None or wanted == self._is_reading:
            return
        loop = asyncio.get_running_loop()
        if wanted:
            loop.add_reader(self._rings.event_fd, self._on_upcalls)
        else:
            loop.remove_reader(self._rings.event_fd)
        self._is_reading = wanted

    def _on_upcalls(self) -> None:
        """Take what is there, as far as its completions have room; see to it that the rest has its turn."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rings is None:
            return
        began, before = time.monotonic(), self._outstanding
        try:
            more = False
            if not self._taken:
                taken, more = self._rings.take()
                if any(upcall.chunk_count > MAX_RUN for upcall in taken):
                    raise ProtocolError(f"more than {MAX_RUN} chunks in one upcall")
                self._taken.extend(taken)
            while self._taken and self._has_room(self._taken[0].chunk_count):
                self._ask(self._taken.popleft())
        except (OSError, ProtocolError) as error:
            self._end(str(error))
            return
        if self._taken:  # stalled: goes on when a chunk is settled, or when the worker may have read
            self._read(False)
            self._again_after(self._stalled_s)
            self._stalled_s = min(2 * self._stalled_s, STALLED_S[1])
            return
        self._stalled_s = STALLED_S[0]
        self._read(not more)
        if more:
            useless = self._outstanding == before
            cost = time.monotonic() - began
            self._again_after(cost * (1 - USELESS_SHARE) / USELESS_SHARE if useless else 0)

    def _has_room(self, count: int) -> bool:
        assert self._rings is not None
        return self._outstanding + count <= self._rings.room()

    def _again_after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_upcalls)

    def _ask(self, upcall: Upcall) -> None:
        served = self._blobs.get(upcall.blob)
        if served is None:
            return  # closed by now, or open soon: then it is asked again
        first, count = upcall.first_chunk, upcall.chunk_count
        _check_run(served.blob, first, count)
        with asking(served.source):
            self._outstanding += self._agent.misses.want(served.blob, (first, count), served)

    def complete(self, handle: int, first: int, count: int, has_failed: bool) -> None:
        """Tell the worker of chunks that it asked for."""
        self._outstanding -= count
        if self._rings is not None:
            self._rings.push(handle, first, count, has_failed=has_failed)
            if self._taken and self._timer is not None:
                self._again_after_settling()

    def _again_after_settling(self) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(0, self._on_upcalls)

    # the end

    def _send(self, message: Message, fds: list[int] | None = None) -> None:
        self._connection.send(protocol.encode(message), fds or [])

    def _end(self, reason: str) -> None:
        log.error("%s broke the protocol and is hung up on: %s", self._name, reason)
        self._on_hang_up()

    def _on_hang_up(self) -> None:
        if not self._is_closed:
            self._agent.ended(self)

    async def close(self) -> None:
        """Hang up, and close what the worker had open."""
        if self._is_closed:
            return
        self._is_closed = True
        self._connection.close()
        self._read(False)
        if self._timer is not None:
            self._timer.cancel()
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        rings, self._rings = self._rings, None
        if rings is not None:
            rings.close()
        for prefetcher, _ in self._prefetchers.values():
            prefetcher.cancel()
        blobs, self._blobs = self._blobs, {}
        for served in blobs.values():
            with suppress(RafsError):
                await self._let_go(served)


#: the most chunks of one upcall, as UPCALL_RUN in native/c/upcall.h
MAX_RUN = 1024


def _check_run(blob: OpenBlob, first: int, count: int) -> None:
    if first < 0 or count < 1 or first + count > blob.native.chunk_count:
        raise ProtocolError(f"chunks {first}+{count} of blob {blob.blob_id}, which has no such")


def _readable_fds(blob: OpenBlob) -> list[int]:
    """Data file, chunk map and metadata, and those in memory, opened anew for reading only.

    The chunk map is locked, shared, as long as a worker has it: by that it is known to be used.
    """
    fds: list[int] = []
    try:
        memory = blob.space.memory
        disk = (blob.cache.data_fd, blob.cache.chunk_map_fd, blob.tail.meta_fd)
        for fd in (*disk, memory.data_fd, memory.map_fd):
            fds.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
        fcntl.flock(fds[1], fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds
