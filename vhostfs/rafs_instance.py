"""An image that is mounted, and what it needs: bootstrap, blobs, and the agent of its cache directory.

Images with the same cache directory share a link to its agent, which shares what they have in common. What is
configured and cannot be served is refused here, with a sentence that says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from native.dataplane import ChunkStore, MountCounters
from rafs.errors import RafsError
from rafs.image import Image, ImageError
from vhostfs import sandbox
from vhostfs.agent.client import AgentLink
from vhostfs.agent.exchange import AgentError
from vhostfs.mounts import MountError, MountRequest, check_reach
from vhostfs.nydusd.config import Config, public_view
from vhostfs.nydusd.config_parse import parse_config
from vhostfs.nydusd.config_paths import read_paths
from vhostfs.nydusd.config_served import cache_limits, served, without_effect
from vhostfs.open_image import OpenImage
from vhostfs.prefetching import options_of, wanted_trace
from vhostfs.runtime import os_error_text, run_to_end, to_end
from vhostfs.sandbox_policy import Use
from vhostfs.tracing import find_trace, trace_path

log = logging.getLogger(__name__)


class RafsInstance(OpenImage):
    """An image that is mounted as its configuration says."""

    def __init__(
        self, config: Config, image: Image, links: AgentLinks, cache_dir: Path, settings: Mapping[str, str]
    ) -> None:
        assert config.backend is not None
        link, limits = links.acquire(cache_dir), cache_limits(config)
        super().__init__(image, link, config.backend, settings=settings, limits=limits)
        self.config = config
        self.cache_dir = cache_dir
        self.counters = MountCounters()
        self._links = links

    def public_config(self) -> dict[str, Any]:
        """The configuration without its secrets."""
        return public_view(self.config)

    async def adjust(self, settings: Mapping[str, str]) -> None:
        """Take new values of the SETTINGS of mounts.py. Raises MountError, and changes nothing."""
        try:
            await super().adjust(settings)
        except AgentError as error:
            raise MountError(str(error)) from error

    async def close(self) -> None:
        """Let go of image, blobs and link."""
        await to_end(self._close())

    async def _close(self) -> None:
        await super().close()
        self.counters.close()
        await self._links.release(self.cache_dir)


class AgentLinks:
    """The links of a daemon, by cache directory. `start_agent` has an agent started; raises OSError."""

    def __init__(self, chunks: ChunkStore, start_agent: Callable[[Path], None]) -> None:
        self._chunks = chunks
        self._start_agent = start_agent
        self._links: dict[Path, AgentLink] = {}
        self._users: dict[Path, int] = {}

    def acquire(self, cache_dir: Path) -> AgentLink:
        """The link to the agent of a directory. Every call is matched by one of `release`."""
        link = self._links.get(cache_dir)
        if link is None:
            link = self._links[cache_dir] = AgentLink(self._chunks, cache_dir, self._start_agent)
        self._users[cache_dir] = self._users.get(cache_dir, 0) + 1
        return link

    async def release(self, cache_dir: Path) -> None:
        """One user less; with the last one it hangs up."""
        self._users[cache_dir] -= 1
        if not self._users[cache_dir]:
            del self._users[cache_dir]
            await self._links.pop(cache_dir).close()

    async def stop(self) -> None:
        """Take no more chunks, and fail the requests that wait for some."""
        await asyncio.gather(*(link.stop() for link in list(self._links.values())))


class RafsImages:
    """Opens the images that a daemon mounts."""

    def __init__(self, chunks: ChunkStore, start_agent: Callable[[Path], None]) -> None:
        self._links = AgentLinks(chunks, start_agent)
        self._warned: set[str] = set()

    async def open(self, request: MountRequest) -> RafsInstance:
        """Open an image that is to be mounted. Raises MountError, ConfigError."""
        config, unknown = parse_config(request.config)
        self._warn(unknown, "the configuration has fields that are unknown here and ignored")
        self._warn(without_effect(config), "the configuration asks for what has no effect here")
        _, cache_dir = served(config)
        cache_dir = Path.cwd() / cache_dir
        await run_to_end(None, lambda: check_all_reach(request, config, cache_dir))
        try:
            image = await run_to_end(None, lambda: Image(request.source))
        except BaseException as error:
            raise _as_mount_error(error) from error
        instance = RafsInstance(config, image, self._links, cache_dir, request.settings)
        try:
            await instance.open_blobs()
            trace = wanted_trace(request, config)
            if (options := options_of(config, request.prefetch_files, trace)) is not None:
                instance.start_prefetch(options, partial(find_trace, trace, Path(request.source)))
        except BaseException as error:
            await instance.close()
            raise _as_mount_error(error) from error
        return instance

    async def stop(self) -> None:
        """Take no more misses, and fail those that wait."""
        await self._links.stop()

    def _warn(self, paths: list[str], of_what: str) -> None:
        """Once for each field in the life of the daemon."""
        if new := [path for path in paths if path not in self._warned]:
            self._warned.update(new)
            log.warning("%s: %s", of_what, ", ".join(new))


def check_all_reach(request: MountRequest, config: Config, cache_dir: Path) -> None:
    """Raise MountError for the first path that the sandbox keeps out of reach. Blocks."""
    paths = [Path(request.source), *read_paths(config)]
    if trace := wanted_trace(request, config):
        paths.append(trace_path(trace, Path(request.source)))
    for path in paths:
        check_reach(path, Use.READ)
    if reason := sandbox.current().refusal_of_cache(cache_dir):
        raise MountError(reason)


def _as_mount_error(error: BaseException) -> BaseException:
    if isinstance(error, RafsError | ImageError | AgentError):
        return MountError(str(error))
    return MountError(os_error_text(error)) if isinstance(error, OSError) else error
