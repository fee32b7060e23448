"""The composition root of `vhostfs-nydusd fuse`: one device, one session on /dev/fuse, many mounts, the API.

With --bootstrap that is what is mounted, and nothing else; without, the session begins empty (or with
--shared-dir), and images come and go by the API. Where there is a session to be taken over, nothing is
mounted and nothing is read before the API says so: see `fuse_service.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from native.dataplane import ChunkStore, Device, DirectoryOptions, FileHandles, FuseSession
from vhostfs.api.server import ApiServer
from vhostfs.api.state import Event
from vhostfs.defaults import DEFAULT_MISS_TIMEOUT_S
from vhostfs.mounts import Mounts
from vhostfs.nydusd.arguments import Arguments
from vhostfs.nydusd.daemon import NydusDaemon, request_of
from vhostfs.nydusd.fuse_place import FusePlace
from vhostfs.nydusd.fuse_service import FuseService
from vhostfs.nydusd.logs import ErrorHistory
from vhostfs.runtime import run_to_end

log = logging.getLogger(__name__)

#: what has been read is answered within, when the session is left to a successor
DRAIN_MS = 500


class FuseDaemon(NydusDaemon):
    """`async with` makes it ready; `run` serves until `stop`. Raises StartError."""

    def __init__(
        self,
        arguments: Arguments,
        errors: ErrorHistory,
        start_agent: Callable[[Path], None],
        place: FusePlace,
    ) -> None:
        super().__init__(arguments, errors, start_agent)
        self._place = place
        self._session: FuseSession | None = None
        self.leaves_session = False  # to a successor, at the end

    async def _build(self) -> None:
        arguments, stack = self.arguments, self._stack
        # whatever happens from here on, nobody is left with a mount that does not answer
        stack.push_async_callback(self._leave)
        chunks = ChunkStore()
        stack.callback(chunks.close)
        # Images alone need no OPEN and no FLUSH: their files can be opened and closed while nobody answers.
        self.is_shared = arguments.shared_dir is not None
        self.device = Device(
            chunks,
            num_request_queues=0,
            shared=self.is_shared,
            miss_timeout_ms=int(DEFAULT_MISS_TIMEOUT_S * 1000),
        )
        self.device.serve_host()
        options = DirectoryOptions(file_handles=FileHandles(arguments.inode_file_handles))
        self.mounts = Mounts(self.device, chunks, self._start_agent, options)
        stack.push_async_callback(self.mounts.close)
        stack.callback(self.device.close)
        stack.push_async_callback(self._close_session)
        self.service = FuseService(self, self._errors)
        if self._place.fds:
            if (request := await asyncio.to_thread(request_of, arguments)) is not None:
                await self.mounts.mount(arguments.virtual_mountpoint, request)
            self.begin(self._place.fds)
            self.service.state.react(Event.MOUNT, Event.START)
            log.info("serving at %s", self._place.mountpoint)
        else:
            log.info("waiting to take over what is mounted at %s", self._place.mountpoint)
        stack.push_async_callback(self.mounts.stop)
        if arguments.apisock is not None:
            await stack.enter_async_context(ApiServer(arguments.apisock, self.service.routes))
            log.info("API on %s", arguments.apisock)

    @property
    def session(self) -> FuseSession | None:
        return self._session

    def begin(self, fds: list[int]) -> FuseSession:
        """Answer the session of these descriptors, which are its own from now on."""
        channels = max(self.arguments.fuse_threads, len(fds))
        self._session = FuseSession(self.device, fds, channels=channels)
        self._session.start()
        asyncio.get_running_loop().add_reader(self._session.ended_fd, self._on_ended)
        return self._session

    def _on_ended(self) -> None:
        if self._session is not None:
            asyncio.get_running_loop().remove_reader(self._session.ended_fd)
        log.info("%s was unmounted", self._place.mountpoint)
        self.stop()

    async def stop_session(self) -> None:
        """Read no more requests. What was read and cannot be answered soon is left to the successor."""
        session = self._session
        if session is not None:
            await run_to_end(None, lambda: session.stop(DRAIN_MS, abandon=self.leaves_session))

    async def _leave(self) -> None:
        self._place.unmounter.close()

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            asyncio.get_running_loop().remove_reader(session.ended_fd)
        if self.leaves_session:
            self._place.unmounter.stay()
        else:
            await run_to_end(None, self._place.unmounter.umount)
        if session is not None:
            await run_to_end(None, session.close)
