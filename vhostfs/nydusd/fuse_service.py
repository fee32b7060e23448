"""The API of a FUSE daemon: what `Service` has, and how the session goes from one process to the next.

    sendfd      the state and the session's descriptor go to the supervisor
    exit        the session is left as it is: no more is read, nothing is unmounted
    takeover    state and descriptor come from the supervisor; all is mounted again, nothing is read yet
    start       the session goes on; the kernel asks again what the predecessor left unanswered

(contract 4.6)
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from native.dataplane import adopt_session, session_terms
from vhostfs.api.errors import ApiError
from vhostfs.api.routes import Request
from vhostfs.api.service import Service, parse_mount
from vhostfs.api.state import Event, State, UnexpectedEvent
from vhostfs.mounts import MountError, MountRequest, normalize
from vhostfs.nydusd import supervisor
from vhostfs.nydusd.errors import ConfigError
from vhostfs.nydusd.handover import Handover, HandoverError, MountState, decode, encode
from vhostfs.nydusd.logs import ErrorHistory
from vhostfs.nydusd.supervisor import SupervisorError
from vhostfs.runtime import run_to_end, to_end

if TYPE_CHECKING:
    from vhostfs.nydusd.fuse_daemon import FuseDaemon

log = logging.getLogger(__name__)


class FuseService(Service):
    """The service of `daemon`."""

    def __init__(self, daemon: FuseDaemon, errors: ErrorHistory) -> None:
        arguments = daemon.arguments
        super().__init__(daemon.mounts, errors, daemon.stop, arguments.id, arguments.supervisor)
        self._daemon = daemon
        self._taken_fd = -1

    async def send_fd(self, request: Request) -> None:
        path = self._supervisor_path()
        session, terms = self._daemon.session, session_terms(self._daemon.device)
        try:
            if session is None or terms is None or self.state.state is not State.RUNNING:
                await asyncio.to_thread(supervisor.send_nothing, path)
                raise ApiError(503, "NotReady: the kernel has not begun the session yet")
            state = encode(self._handover())
            await asyncio.to_thread(supervisor.send, path, state, session.fd)
        except SupervisorError as error:
            raise ApiError(500, str(error)) from error
        log.info("%d bytes of state are with the supervisor", len(state))

    def _handover(self) -> Handover:
        device, terms = self._daemon.device, session_terms(self._daemon.device)
        assert terms is not None
        nodes = device.nodes()
        indexes = dict(nodes)
        mounts = [
            MountState(
                mountpoint=mount.mountpoint,
                index=indexes.get(mount.mountpoint, 0),
                fs_type=mount.request.fs_type,
                source=mount.request.source,
                config=mount.request.config,
                prefetch_files=mount.request.prefetch_files,
                trace=mount.request.trace,
                settings=mount.settings,
            )
            for mount in self._mounts
        ]
        directories = [path for path, _ in nodes]
        return Handover(terms=terms, is_shared=self._daemon.is_shared, directories=directories, mounts=mounts)

    async def take_over(self, request: Request) -> None:
        if self.state.state is not State.INIT:
            raise ApiError(
                400, str(UnexpectedEvent(f"UnexpectedEvent(takeover): not in state {self.state.state}"))
            )
        try:
            state, fd = await asyncio.to_thread(supervisor.receive, self._supervisor_path())
        except SupervisorError as error:
            raise ApiError(500, str(error)) from error
        try:
            await to_end(self._restore(decode(state)))
        except (HandoverError, MountError, ConfigError, OSError) as error:
            os.close(fd)
            raise ApiError(500, f"takeover: {error}") from error
        self._taken_fd = fd
        self._react(Event.TAKEOVER)
        log.info("took over a session with %d mounts", len(list(self._mounts)))

    async def _restore(self, handover: Handover) -> None:
        device = self._daemon.device
        if handover.is_shared != self._daemon.is_shared:
            raise HandoverError("the state is of a daemon with another command line: --shared-dir")
        adopt_session(device, handover.terms)
        await run_to_end(None, lambda: device.restore_nodes(handover.directories))
        for mount in handover.mounts:
            if mount.index:
                device.set_next_index(mount.index)
            request = MountRequest(
                fs_type=mount.fs_type,
                source=mount.source,
                config=mount.config,
                prefetch_files=mount.prefetch_files,
                trace=mount.trace,
                settings=mount.settings,
            )
            await self._mounts.mount(mount.mountpoint, request)

    async def start(self, request: Request) -> None:
        self._react(Event.START)
        if self._taken_fd < 0:
            return
        fd, self._taken_fd = self._taken_fd, -1
        session = self._daemon.begin([fd])
        policy = self._daemon.arguments.failover_policy
        try:
            if policy != "none":  # to flush them instead takes a kernel that is not the mainline's
                await run_to_end(None, session.resend)
        except OSError as error:
            log.warning("the kernel does not ask again what was under way: %s", error.strerror)

    async def exit(self, request: Request) -> None:
        self._daemon.leaves_session = True
        await self._daemon.stop_session()
        await super().exit(request)

    async def mount(self, request: Request) -> None:
        """A mount that is there already, just so, is no error: it was taken over."""
        mountpoint, wanted = request.required("mountpoint"), parse_mount(request.body)
        try:
            there = self._mounts.at(mountpoint)
        except MountError:
            there = None
        if there is not None and there.request._replace(settings={}) == wanted._replace(settings={}):
            return
        await super().mount(request)

    async def umount(self, request: Request) -> None:
        await super().umount(request)
        session = self._daemon.session
        if session is not None:
            path = PurePosixPath(normalize(request.required("mountpoint")))
            paths = [found for found, _ in self._daemon.device.nodes()]
            parent = 1 if path.parent == PurePosixPath("/") else paths.index(str(path.parent)) + 2
            await run_to_end(None, lambda: session.forget_entry(parent, path.name))

    async def metrics_inflight(self, request: Request) -> Any:
        session = self._daemon.session
        if session is None:
            return None
        return [
            {"inode": one.nodeid, "opcode": one.opcode, "unique": one.unique, "timestamp_secs": one.since_s}
            for one in session.in_flight()
        ] or None

    def _supervisor_path(self) -> str:
        path = self._daemon.arguments.supervisor
        if path is None:
            raise ApiError(500, "this daemon has no supervisor (--supervisor)")
        return path
