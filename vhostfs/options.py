"""What can be chosen about a daemon, with the one place where defaults and limits stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rafs.backend.config import Backend
from rafs.limits import NO_LIMITS, CacheLimits
from rafs.prefetch.options import PrefetchOptions
from vhostfs.defaults import DEFAULT_MISS_TIMEOUT_S, DEFAULT_POLL_US, default_cache_dir

if TYPE_CHECKING:
    from rafs.trace.format import Trace

__all__ = [
    "DEFAULT_MISS_TIMEOUT_S",
    "DEFAULT_POLL_US",
    "ServeOptions",
    "default_cache_dir",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """One image on one socket. Either `socket` (a path) or `listen_fd` (inherited) is given.

    `backend`: where its blobs come from. `trace` is what to prefetch first, `trace_out` where to write what
    is recorded of this run.
    """

    bootstrap: Path
    backend: Backend
    cache_dir: Path
    socket: str | None = None
    listen_fd: int | None = None
    tag: str | None = None
    num_request_queues: int = 1
    miss_timeout_s: float = DEFAULT_MISS_TIMEOUT_S
    poll_us: int = DEFAULT_POLL_US
    statistics: Path | None = None
    prefetch: PrefetchOptions | None = None
    cache_limits: CacheLimits = NO_LIMITS
    trace: Trace | None = None
    trace_out: Path | None = None
