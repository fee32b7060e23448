"""An agent in the process of the test, on its loop, where workers look for it; with any back-end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from rafs.backend import BlobBackend
from rafs.backend.config import Backend
from rafs.fetch import FetchLimits
from rafs.limits import CacheLimits
from vhostfs.agent.place import AgentPlace
from vhostfs.agent.server import Agent


@asynccontextmanager
async def agent_here(
    cache_dir: Path,
    backend: BlobBackend | None = None,
    *,
    make: Callable[[Backend], BlobBackend] | None = None,
    limits: FetchLimits | None = None,
    cache_limits: CacheLimits | None = None,
) -> AsyncIterator[Agent]:
    """`backend` stands for whatever is configured."""
    place = AgentPlace(cache_dir)
    assert place.claim()
    try:
        listener = place.listen()
        try:
            chosen = make if backend is None else (lambda _: backend)
            async with Agent(cache_dir, make=chosen, limits=limits, cache_limits=cache_limits) as agent:
                agent.serve(listener)
                try:
                    yield agent
                finally:
                    agent.stop()
        finally:
            listener.close()
    finally:
        place.close()


def no_start(cache_dir: Path) -> None:
    """The `start_agent` of daemons whose agent is there already."""
    raise AssertionError(f"an agent for {cache_dir} was to be there")


class AgentsHere:
    """`start` is the `start_agent` of a daemon: the agents that it gets run on the loop of the test."""

    def __init__(self) -> None:
        self.agents: dict[Path, Agent] = {}
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self._ending = asyncio.Event()

    def start(self, cache_dir: Path) -> None:
        if cache_dir not in self._tasks:
            self._tasks[cache_dir] = asyncio.create_task(self._serve(cache_dir))

    async def _serve(self, cache_dir: Path) -> None:
        async with agent_here(cache_dir) as agent:
            self.agents[cache_dir] = agent
            await self._ending.wait()

    async def close(self) -> None:
        self._ending.set()
        await asyncio.gather(*self._tasks.values())
