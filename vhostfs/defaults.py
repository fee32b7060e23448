"""Defaults that several daemons share, and nothing that takes time to import."""

from __future__ import annotations

import os
from pathlib import Path

#: A guest's kernel reports a hung task after 120 s; a slow registry is retried well within this.
DEFAULT_MISS_TIMEOUT_S = 60.0
#: About one wake-up: looking at the ring that long costs no more than being woken.
DEFAULT_POLL_US = 50

#: An agent costs some MiB, and starting one some tenths of a second: it outlives a pod that is replaced.
DEFAULT_IDLE_TIMEOUT_S = 60.0


def default_cache_dir() -> Path:
    """Where chunks are kept when nothing else is said: the system's place for root, else the user's."""
    if os.geteuid() == 0:
        return Path("/var/cache/vhostfs")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vhostfs"
