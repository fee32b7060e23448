"""What can be chosen about a daemon, with the one place where defaults and limits stand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

#: A guest's kernel reports a hung task after 120 s; a slow registry is retried well within this.
DEFAULT_MISS_TIMEOUT_S = 60.0
#: About one wake-up: looking at the ring that long costs no more than being woken.
DEFAULT_POLL_US = 50

__all__ = [
    "DEFAULT_MISS_TIMEOUT_S",
    "DEFAULT_POLL_US",
    "ServeOptions",
    "default_cache_dir",
]


def default_cache_dir() -> Path:
    """Where chunks are kept when nothing else is said: the system's place for root, else the user's."""
    if os.geteuid() == 0:
        return Path("/var/cache/vhostfs")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vhostfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """One image on one socket. Either `socket` (a path) or `listen_fd` (inherited) is given."""

    bootstrap: Path
    blob_dir: Path
    cache_dir: Path
    socket: str | None = None
    listen_fd: int | None = None
    tag: str | None = None
    num_request_queues: int = 1
    miss_timeout_s: float = DEFAULT_MISS_TIMEOUT_S
    poll_us: int = DEFAULT_POLL_US
    statistics: Path | None = None
