"""The worker's side: a link to the agent of one cache directory, kept up whatever becomes of the agent.

    link = AgentLink(chunks, cache_dir, starter.start)
    blob = await link.open_blob(spec)       # blob.native is what the data plane takes
    ...
    await link.close_blob(blob)
    await link.close()

The agent is started when nobody listens. When it goes away, hits go on; the link is made anew with whoever
comes next: blobs are opened there again, by the same handles, and what is PENDING is asked for again.
Requests of a caller wait for that, up to CALL_TIMEOUT_S.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from native.dataplane import Blob, ChunkLink, ChunkStore
from rafs.metered import BackendStatistics
from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.plan import Stage
from rafs.prefetch.statistics import PrefetchStatistics
from vhostfs.agent.bootstrap import pack_plan
from vhostfs.agent.exchange import AgentError, Exchange, Lost, numbers
from vhostfs.agent.linked import BlobSpec, LinkedBlob, LinkedPrefetch
from vhostfs.agent.place import connect
from vhostfs.agent.protocol import (
    VERSION,
    Adjust,
    AskFigures,
    BackendFigures,
    BlobEntry,
    CloseBlob,
    Figures,
    Hello,
    OpenBlob,
    Prefetch,
    Reply,
    Request,
    StopPrefetch,
    Welcome,
)
from virtqueue.fd import Fd

log = logging.getLogger(__name__)
T = TypeVar("T")

#: how long a call waits for an agent that can answer it: it may have to be started, by systemd perhaps
CALL_TIMEOUT_S = 30.0
#: between attempts to reach an agent
RETRY_S = (0.005, 0.5)
#: an agent that was asked to start is asked again after this
START_AGAIN_S = 2.0
#: between attempts to have a blob opened that the successor of an agent refused
REOPEN_S = (0.5, 30.0)
#: metrics are not waited for longer
FIGURES_TIMEOUT_S = 2.0


class AgentLink:
    """See the module. `start` has an agent started for a directory, and raises OSError if it cannot."""

    def __init__(self, chunks: ChunkStore, cache_dir: Path, start: Callable[[Path], None]) -> None:
        self._chunks = chunks
        self._cache_dir = cache_dir
        self._start = start
        self._started_at = -START_AGAIN_S
        self._rings = ChunkLink(chunks)
        self._blobs: dict[int, LinkedBlob] = {}
        self._served: set[int] = set()
        self._prefetches: set[LinkedPrefetch] = set()
        self._exchange: Exchange | None = None
        self._ready = asyncio.Event()
        self._trouble = "there is none yet"
        self._figures = Figures(0, {}, {}, {}, BackendFigures.of(BackendStatistics()), PrefetchStatistics())
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def open_blob(self, spec: BlobSpec) -> LinkedBlob:
        """Open a blob; the spec is the link's from now on. Raises AgentError, OSError."""
        handle = self._rings.new_handle()
        try:
            fds = await self._call(lambda: self._open(handle, spec))
            try:
                blob = self._map(handle, spec, fds)
            except BaseException:
                await self._let_go(handle)
                raise
            finally:
                for fd in fds:
                    fd.close()
        except BaseException:
            spec.close()
            raise
        self._blobs[handle] = blob
        return blob

    async def close_blob(self, blob: LinkedBlob) -> None:
        """Nothing serves the blob any more."""
        blob.native.fail(0, blob.native.chunk_count)  # ends reads that wait
        blob.native.close()
        blob.spec.close()
        del self._blobs[blob.handle]
        await self._let_go(blob.handle)

    async def _let_go(self, handle: int) -> None:
        if handle in self._served:
            self._served.discard(handle)
            with suppress(AgentError, Lost, TimeoutError):  # whoever comes next never hears of it
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await self._ask(CloseBlob(next(numbers), handle))

    async def adjust(self, blobs: Sequence[LinkedBlob], settings: Mapping[str, str]) -> None:
        """Give the back-ends of blobs new settings. Raises AgentError: then all is as before."""
        if not blobs:
            return
        handles = [blob.handle for blob in blobs]
        changed = blobs[0].spec.settings | dict(settings)  # an image's blobs have the same
        await self._call(lambda: self._ask(Adjust(next(numbers), handles, changed)))
        for blob in blobs:
            blob.spec.settings = changed

    async def prefetch(
        self, blobs: Sequence[LinkedBlob], plan: Sequence[Stage], options: PrefetchOptions
    ) -> LinkedPrefetch:
        """Have chunks fetched ahead, by a plan whose blob indices are those of `blobs`. Raises AgentError.

        `stop_prefetch` it before these blobs are closed.
        """
        handles = [blob.handle for blob in blobs]
        # The files that were asked for are in the plan.
        asked = replace(options, files=None)
        prefetch = LinkedPrefetch(next(numbers), handles, pack_plan(plan), asked)
        try:
            await self._call(lambda: self._begin_prefetch(prefetch))
        except BaseException:
            prefetch.close()
            raise
        self._prefetches.add(prefetch)
        return prefetch

    async def _begin_prefetch(self, prefetch: LinkedPrefetch) -> None:
        message = Prefetch(next(numbers), prefetch.number, prefetch.handles, prefetch.options)
        await self._ask(message, [prefetch.plan_fd])

    async def stop_prefetch(self, prefetch: LinkedPrefetch) -> None:
        """Ask for nothing more; what is on its way is not waited for."""
        self._prefetches.discard(prefetch)
        prefetch.close()
        with suppress(AgentError, Lost, TimeoutError):
            async with asyncio.timeout(FIGURES_TIMEOUT_S):
                await self._ask(StopPrefetch(next(numbers), prefetch.number))

    async def figures(self, blobs: Sequence[LinkedBlob], prefetch: LinkedPrefetch | None = None) -> Figures:
        """What the agent has counted; while there is none, what it had counted when it was asked last."""
        with suppress(AgentError, Lost, TimeoutError):
            if self._keeping.done():
                raise Lost
            async with asyncio.timeout(FIGURES_TIMEOUT_S):
                await self._ready.wait()
                handles = [blob.handle for blob in blobs]
                number = prefetch.number if prefetch is not None else 0
                reply, _ = await self._ask(AskFigures(next(numbers), handles, number))
                if isinstance(reply, Figures):
                    self._figures = reply
        return self._figures

    async def stop(self) -> None:
        """Ask for nothing any more; requests that wait for chunks are answered EIO."""
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        self._hang_up()
        for blob in self._blobs.values():
            blob.native.fail(0, blob.native.chunk_count)

    async def close(self) -> None:
        """Hang up. All blobs are closed."""
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        self._hang_up()
        self._rings.close()

    # calls

    async def _call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do `work` with an agent that is there, and once more with its successor. Raises AgentError."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                while True:
                    await self._ready.wait()
                    try:
                        return await work()
                    except Lost:
                        continue
        except TimeoutError:
            raise AgentError(f"no agent answers for {self._cache_dir}: {self._trouble}") from None

    async def _open(self, handle: int, spec: BlobSpec) -> list[Fd]:
        opened: list[int] = []
        try:
            files = []
            for path in dict.fromkeys(spec.files):
                with suppress(FileNotFoundError, NotADirectoryError):  # the back-end says so, if it matters
                    opened.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
                    files.append(path)
            message = OpenBlob(
                call=next(numbers),
                handle=handle,
                backend=spec.backend,
                settings=spec.settings,
                files=files,
                entry=BlobEntry.of(spec.record),
                told=spec.told,
                limits=spec.limits,
            )
            _, fds = await self._ask(message, [*opened, *([spec.chunks_fd] if spec.told else [])])
        finally:
            for fd in opened:
                os.close(fd)
        self._served.add(handle)
        return fds

    def _map(self, handle: int, spec: BlobSpec, fds: list[Fd]) -> LinkedBlob:
        data, chunk_map, meta = (fd.fileno() for fd in fds[:3])
        native = Blob(
            self._chunks,
            data_fd=data,
            chunk_map_fd=chunk_map,
            meta_fd=meta,
            chunk_count=spec.record.chunk_count,
            uncompressed_size=spec.record.uncompressed_size,
        )
        try:
            _share_memory(native, fds)
        except BaseException:
            native.close()
            raise
        self._rings.serve(native, handle)
        return LinkedBlob(handle, spec, native, _inode(data))

    # the connection

    async def _keep(self) -> None:
        """Have an agent, and have another one when that is gone; until cancelled."""
        delay, is_first = RETRY_S[0], True
        while True:
            met_at = time.monotonic()
            try:
                await self._meet(is_first)
                is_first = False
                await self._reopen()
                for prefetch in list(self._prefetches):
                    if self._served.issuperset(prefetch.handles):
                        await self._begin_prefetch(prefetch)
                self._ready.set()
                again = asyncio.create_task(self._reopen_refused())
                try:
                    await self._current.gone.wait()
                finally:
                    again.cancel()
                    await asyncio.gather(again, return_exceptions=True)
            except (OSError, AgentError, TimeoutError, Lost) as error:
                self._trouble = str(error) or type(error).__name__
            except Exception as error:
                log.exception("the link to the agent of %s failed", self._cache_dir)
                self._trouble = str(error)
            self._hang_up()
            if time.monotonic() - met_at > 1:
                delay = RETRY_S[0]
            await asyncio.sleep(delay * random.uniform(0.5, 1))
            delay = min(2 * delay, RETRY_S[1])

    async def _meet(self, is_first: bool) -> None:
        """Connect and say hello. Raises OSError, AgentError, Lost, TimeoutError."""
        try:
            sock = connect(self._cache_dir)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() - self._started_at > START_AGAIN_S:
                self._started_at = time.monotonic()
                self._start(self._cache_dir)
            raise
        try:
            if not is_first:
                self._rings.renew()
            self._exchange = Exchange(sock)
        except BaseException:
            sock.close()
            raise
        async with asyncio.timeout(CALL_TIMEOUT_S):
            reply, _ = await self._ask(Hello(VERSION), self._rings.fds)
        if not isinstance(reply, Welcome):
            raise AgentError("it does not greet")
        self._started_at = -START_AGAIN_S
        if not is_first:
            log.info("%s: another agent fetches now", self._cache_dir)

    async def _reopen(self) -> None:
        """Have all blobs opened that are not, and ask for what is PENDING. Raises Lost."""
        for blob in list(self._blobs.values()):
            if blob.handle in self._served or self._blobs.get(blob.handle) is not blob:
                continue
            try:
                fds = await self._open(blob.handle, blob.spec)
            except (AgentError, OSError) as error:
                log.error("blob %s: the agent does not serve it: %s", blob.blob_id, error)
                continue
            if _inode(fds[0].fileno()) != blob.inode:
                log.error(
                    "blob %s: its cache was removed while it was used; mount the image anew", blob.blob_id
                )
            _share_memory(blob.native, fds)  # the successor has its own
            for fd in fds:
                fd.close()
            if self._blobs.get(blob.handle) is not blob:  # closed meanwhile
                self._served.discard(blob.handle)
                await self._ask(CloseBlob(next(numbers), blob.handle))
        while not self._rings.ask_again():
            await asyncio.sleep(RETRY_S[0])

    async def _reopen_refused(self) -> None:
        delay = REOPEN_S[0]
        with suppress(Lost):
            while not self._served >= self._blobs.keys():
                await asyncio.sleep(delay)
                delay = min(2 * delay, REOPEN_S[1])
                await self._reopen()

    @property
    def _current(self) -> Exchange:
        if self._exchange is None:
            raise Lost
        return self._exchange

    async def _ask(self, message: Request, fds: Sequence[int] = ()) -> tuple[Reply, list[Fd]]:
        return await self._current.ask(message, fds)

    def _hang_up(self) -> None:
        self._ready.clear()
        self._served.clear()
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None


def _share_memory(native: Blob, fds: Sequence[Fd]) -> None:
    """Take what the agent has in memory for a blob, the last three of what it sends. Raises OSError."""
    memory_data, memory_map, visited = (fd.fileno() for fd in fds[3:])
    native.add_memory(memory_data, memory_map)
    native.add_visited(visited)


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
