"""From options to an agent that serves: its place, its log, its sandbox, its end."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from rafs.backend.rate import RateLimit
from rafs.limits import CacheLimits
from vhostfs.agent.place import LOG, AgentPlace, connect
from vhostfs.agent.scrape import metrics_routes
from vhostfs.agent.server import Agent
from vhostfs.api.http import HttpServer
from vhostfs.api.routes import answer
from vhostfs.nydusd import logs
from vhostfs.runtime import StartError, serve_until_signal
from vhostfs.sandbox import apply_sandbox
from vhostfs.sandbox_agent import agent_policy
from vhostfs.sandbox_options import SandboxOptions
from vhostfs.sandbox_policy import SandboxError

log = logging.getLogger(__name__)

#: how long a predecessor may take to put its cache on disk and let go of the directory
CLAIM_TIMEOUT_S = 20.0
LOG_ROTATION_MIB = 16
_LISTEN_FDS_START = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """`within`: directories, one of which must hold the cache directory; none: anywhere is right.

    `idle_timeout_s` None: it never ends by itself. `log_to_cache`: log beside the socket, not on stderr.
    `metrics`: the address (host, port) of an HTTP server for Prometheus. `host_...`: what each server may be
    asked for by HTTP in a second; 0: no limit. `cache_limits`: None: those that the daemons ask for.
    """

    cache_dir: Path
    within: tuple[Path, ...] = ()
    idle_timeout_s: float | None = None
    log_level: str = "info"
    log_to_cache: bool = False
    metrics: tuple[str, int] | None = None
    host_requests_per_s: float = 0
    host_bytes_per_s: float = 0
    cache_limits: CacheLimits | None = None
    sandbox: SandboxOptions = field(default_factory=SandboxOptions)


class AgentDaemon:
    """The agent on its socket, as `serve_until_signal` wants it."""

    def __init__(
        self,
        options: AgentOptions,
        place: AgentPlace,
        listener: socket.socket,
        metrics_listener: socket.socket | None = None,
    ) -> None:
        rate = RateLimit(options.host_requests_per_s, options.host_bytes_per_s)
        self._agent = Agent(
            options.cache_dir,
            idle_timeout_s=options.idle_timeout_s,
            rate=rate,
            cache_limits=options.cache_limits,
        )
        self._place = place
        self._listener = listener
        self._metrics_listener = metrics_listener
        self._metrics = HttpServer(partial(answer, metrics_routes(self._agent)))

    async def __aenter__(self) -> Self:
        await self._agent.__aenter__()
        if self._metrics_listener is not None:
            await self._metrics.start_on(self._metrics_listener)
        self._agent.serve(self._listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        await self._metrics.close()
        await self._agent.__aexit__(kind, error, trace)
        self._place.close()

    async def run(self) -> None:
        await self._agent.run()

    def stop(self) -> None:
        self._agent.stop()


def run(options: AgentOptions) -> int:
    """Serve until a signal, or until idle for long. 0: so it ended, or the directory has an agent; 1: it
    could not begin."""
    try:
        _check_within(options)
        place = AgentPlace(options.cache_dir)
        if not claim(place, options.cache_dir):
            return 0
        file = place.folder / LOG if options.log_to_cache else None
        logs.install(options.log_level, file, LOG_ROTATION_MIB)
        listener = inherited_listener() or place.listen()
        metrics = _listen(*options.metrics) if options.metrics else None
        apply_sandbox(agent_policy(options.cache_dir, options.sandbox))
        import uvloop

        log.info("fetching for %s", options.cache_dir)
        if metrics is not None:
            log.info("metrics on port %d", metrics.getsockname()[1])
        daemon = AgentDaemon(options, place, listener, metrics)
        serve_until_signal(lambda: daemon, loop_factory=uvloop.new_event_loop, late_status=0)
    except (StartError, SandboxError) as error:
        return _refuse(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror or error}")
    return 0


def _refuse(reason: str) -> int:
    log.error("%s", reason)
    print(f"vhostfs agent: {reason}", file=sys.stderr, flush=True)
    return 1


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise StartError(f"--metrics {host}:{port}: {error.strerror or error}") from error


def _check_within(options: AgentOptions) -> None:
    real = options.cache_dir.resolve()
    allowed = [directory.resolve() for directory in options.within]
    if allowed and not any(real.is_relative_to(directory) for directory in allowed):
        names = ", ".join(map(str, options.within))
        raise StartError(f"{options.cache_dir} is not in a directory that may hold caches ({names})")


def claim(place: AgentPlace, cache_dir: Path) -> bool:
    """Become the agent of a directory; False: another one serves there. Raises OSError, StartError."""
    deadline = time.monotonic() + CLAIM_TIMEOUT_S
    while not place.claim():
        try:
            connect(cache_dir).close()
            return False
        except OSError:  # it is just starting, or just ending
            if time.monotonic() > deadline:
                raise StartError(f"{cache_dir} has an agent that does not answer; end it") from None
            time.sleep(0.01)
    return True


def inherited_listener() -> socket.socket | None:
    """The socket that systemd listens on for us, if it does (sd_listen_fds(3)). Raises StartError."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if os.environ.get("LISTEN_FDS") != "1":
        raise StartError(f"{os.environ.get('LISTEN_FDS')} sockets from systemd; one is expected")
    sock = socket.socket(fileno=_LISTEN_FDS_START)
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET or not listens:
        raise StartError("the socket from systemd is no listening Unix socket (ListenSequentialPacket=)")
    sock.set_inheritable(False)
    return sock
