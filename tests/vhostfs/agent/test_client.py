"""The worker's side of the link, with agents that come and go in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from native.dataplane import ChunkStore
from rafs.image import Image
from tests.vhostfs.agent_here import agent_here, no_start
from tests.vhostfs.conftest import BuiltImage, GatedBackend
from tests.vhostfs.test_daemon import Guest, until
from vhostfs.agent import client
from vhostfs.agent.client import AgentLink
from vhostfs.agent.exchange import AgentError
from vhostfs.daemon import Daemon
from vhostfs.open_image import OpenImage


class Adjusted(GatedBackend):
    """Notes the settings that it is given."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gate.set()
        self.given: list[dict[str, str]] = []

    def set(self, settings: Mapping[str, str]) -> None:
        self.given.append(dict(settings))


@asynccontextmanager
async def linked(image: BuiltImage, cache: Path) -> AsyncIterator[OpenImage]:
    """The image, opened by way of the agent that is there."""
    chunks = ChunkStore()
    link = AgentLink(chunks, cache, no_start)
    opened = OpenImage(Image(image.bootstrap), link, image.options(cache).backend)
    try:
        await opened.open_blobs()
        yield opened
    finally:
        await opened.close()
        await link.close()
        chunks.close()


async def test_reads_wait_for_a_successor(image: BuiltImage, tmp_path: Path) -> None:
    options = image.options(tmp_path)
    backend = GatedBackend(image.blob_dir)
    starts: list[Path] = []
    expected = (image.source / "big").read_bytes()
    async with agent_here(options.cache_dir, backend):
        daemon = Daemon(options, starts.append)
        await daemon.__aenter__()
        assert starts == []
        guest = await asyncio.to_thread(Guest, str(options.socket))
        reading = asyncio.create_task(asyncio.to_thread(guest.read, b"/big"))
        await until(lambda: backend.waiting > 0)
    await until(lambda: bool(starts))  # it is missed
    assert not reading.done()
    async with agent_here(options.cache_dir) as successor:
        assert await reading == expected
        assert successor.store.statistics()["open_blobs"] == 1
        await asyncio.to_thread(guest.close)
        await daemon.__aexit__(None, None, None)


async def test_settings_are_told_to_the_successor_too(image: BuiltImage, tmp_path: Path) -> None:
    first, second = Adjusted(image.blob_dir), Adjusted(image.blob_dir)
    cache = tmp_path / "cache"
    async with agent_here(cache, first):
        opening = linked(image, cache)
        opened = await opening.__aenter__()
        await opened.adjust({"registry_auth": "new"})
        assert first.given == [{"registry_auth": "new"}]
        await opened.adjust({"proxy_url": "http://p"})
        assert first.given[-1] == {"registry_auth": "new", "proxy_url": "http://p"}
    async with agent_here(cache, second):
        await until(lambda: bool(second.given))
        assert second.given == [{"registry_auth": "new", "proxy_url": "http://p"}]
        await opening.__aexit__(None, None, None)


async def test_figures_of_an_agent_that_is_gone_are_the_last_ones(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIGURES_TIMEOUT_S", 0.05)
    cache = tmp_path / "cache"
    async with agent_here(cache) as agent:
        opening = linked(image, cache)
        opened = await opening.__aenter__()
        assert (await opened.figures()).fetch == agent.store.statistics()
    assert (await opened.figures()).fetch["open_blobs"] == 1
    await opening.__aexit__(None, None, None)


async def test_without_an_agent_it_says_so(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_TIMEOUT_S", 0.1)
    chunks = ChunkStore()
    link = AgentLink(chunks, tmp_path / "cache", lambda _: None)
    opened = OpenImage(Image(image.bootstrap), link, image.options(tmp_path).backend)
    with pytest.raises(AgentError, match=r"no agent answers for .*/cache: .*No such file"):
        await opened.open_blobs()
    await opened.close()
    await link.close()
    chunks.close()
