"""One image mounted on this host: the daemon of `vhostfs mount`. All but the transport is `daemon.py`'s."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop

from native.dataplane import FuseSession
from vhostfs.daemon import Daemon
from vhostfs.options import ServeOptions
from vhostfs.runtime import run_to_end, serve_until_signal
from vhostfs.unmounter import Unmounter

log = logging.getLogger(__name__)


class MountDaemon(Daemon):
    """`fds`: of the session that is mounted at `mountpoint`. `is_ready` is called when it answers."""

    def __init__(
        self,
        options: ServeOptions,
        start_agent: Callable[[Path], None],
        mountpoint: Path,
        fds: list[int],
        unmounter: Unmounter,
        is_ready: Callable[[], None],
    ) -> None:
        super().__init__(options, start_agent)
        self._mountpoint = mountpoint
        self._fds = fds
        self._unmounter = unmounter
        self._is_ready = is_ready
        self._session: FuseSession | None = None
        self._figures: dict[str, int] = {}

    def _prepare(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(run_to_end, None, self._unmounter.umount)

    async def _begin(self, stack: AsyncExitStack) -> None:
        self.device.serve_host()
        session = self._session = FuseSession(self.device, self._fds, channels=len(self._fds))
        stack.push_async_callback(self._close, session)
        # before the descriptors go: who comes now finds the directory below, and not a dead mount
        stack.push_async_callback(run_to_end, None, self._unmounter.umount)
        session.start()
        loop = asyncio.get_running_loop()
        loop.add_reader(session.ended_fd, self._on_ended)
        stack.callback(loop.remove_reader, session.ended_fd)
        self._is_ready()

    async def _close(self, session: FuseSession) -> None:
        self._figures = session.statistics()
        await run_to_end(None, session.close)

    def _where(self) -> str:
        return str(self._mountpoint)

    def _on_ended(self) -> None:
        assert self._session is not None
        asyncio.get_running_loop().remove_reader(self._session.ended_fd)
        log.info("%s was unmounted", self._mountpoint)
        self.stop()

    async def statistics(self) -> dict[str, Any]:
        """Of the session in the place of virtqueues."""
        if self._session is not None and not self._session.closed:
            self._figures = self._session.statistics()
        return await super().statistics() | self._figures


def serve_mount(make: Callable[[], MountDaemon]) -> None:
    """Serve until SIGTERM, SIGINT or an unmount. Raises StartError."""
    serve_until_signal(make, loop_factory=uvloop.new_event_loop)
