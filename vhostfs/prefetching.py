"""What is fetched ahead for one mounted image: from its configuration to a running prefetch.

Nothing waits for any of this. The plan is made in a thread, since it reads the bootstrap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rafs.image import Image
from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.plan import Stage, make_plan
from rafs.trace.errors import TraceError
from rafs.trace.format import Trace
from vhostfs.agent.client import AgentLink
from vhostfs.agent.exchange import AgentError
from vhostfs.agent.linked import LinkedBlob, LinkedPrefetch
from vhostfs.mounts import MountRequest
from vhostfs.nydusd.config import Config, Prefetch
from vhostfs.runtime import to_end

log = logging.getLogger(__name__)

MAX_FILE_LIST = 16 << 20


def asked_for(config: Config) -> Prefetch | None:
    """The part of a configuration that counts.

    `cache.prefetch` counts where there is no `rafs.prefetch`: nydusd has both, and most have the latter only.
    """
    asked = config.rafs.prefetch if config.rafs is not None else None
    return config.cache.prefetch if asked is None and config.cache is not None else asked


def wanted_trace(request: MountRequest, config: Config) -> str:
    """The trace that a mount is to follow: a path, "auto", or "" for none (tracing.py)."""
    asked = asked_for(config)
    return request.trace or (asked.trace if asked is not None else "")


def options_of(config: Config, files: Sequence[str], trace: str = "") -> PrefetchOptions | None:
    """What a configuration and a mount ask for; None: nothing. A trace needs no leave."""
    asked = asked_for(config)
    if asked is None or not asked.enable:
        if files:
            log.warning("a list of files to prefetch has no effect: the configuration does not enable it")
        return PrefetchOptions(files=()) if trace else None
    return PrefetchOptions(
        files=tuple(files) or None,
        everything=asked.prefetch_all,
        stream=asked.stream_prefetch,
        workers=asked.threads,
        batch_size=asked.batch_size,
        bandwidth_limit=asked.bandwidth_limit,
    )


def read_file_list(path: Path) -> tuple[str, ...]:
    """Absolute paths, one a line; others are left out with a warning. Raises OSError; blocks."""
    with path.open("rb") as file:
        text = file.read(MAX_FILE_LIST).decode(errors="surrogateescape")
    lines = [line for line in text.splitlines() if line]
    if wrong := [line for line in lines if not line.startswith("/")]:
        log.warning("%s: paths must be absolute; left out: %s", path, ", ".join(wrong[:5]))
    return tuple(line for line in lines if line.startswith("/"))


class MountPrefetch:
    """`start` when the mount is there; `close` before its image and blobs are closed."""

    def __init__(
        self,
        link: AgentLink,
        image: Image,
        blobs: Sequence[LinkedBlob],
        options: PrefetchOptions,
        find_trace: Callable[[], Trace | None] = lambda: None,
    ) -> None:
        """`find_trace` is called in a thread; what it raises is logged."""
        self.running: LinkedPrefetch | None = None
        self._link = link
        self._image = image
        self._blobs = blobs
        self._options = options
        self._find_trace = find_trace
        self._planning: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._planning = asyncio.get_running_loop().create_task(self._plan())

    async def _plan(self) -> None:
        try:
            plan = await to_end(asyncio.to_thread(self._make_plan))
            if plan:
                self.running = await self._link.prefetch(self._blobs, plan, self._options)
        except AgentError as error:
            log.error("nothing is prefetched: %s", error)
        except Exception:
            log.exception("nothing is prefetched")

    def _make_plan(self) -> list[Stage]:
        trace = None
        try:
            trace = self._find_trace()
        except (OSError, TraceError) as error:
            log.error("the trace is not used: %s", error)
        return make_plan(self._image, self._options, trace)

    async def close(self) -> None:
        """Ask for nothing more; what is on its way is not waited for."""
        if self._planning is not None:
            self._planning.cancel()
            await asyncio.wait([self._planning])
        if self.running is not None:
            await self._link.stop_prefetch(self.running)
