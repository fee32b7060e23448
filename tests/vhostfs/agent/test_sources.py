"""Whose back-end is asked, in which order; and that the agent opens nothing by a name it was told."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from rafs.backend import BlobBackend
from rafs.backend.config import Backend, LocalFs, Registry, backend_of, encode_backend
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from rafs.errors import BackendConfigError, BlobNotFound, BlobUnavailable
from rafs.secret import Secret
from vhostfs.agent.sources import Routes, Source, Sources, asking
from virtqueue.fd import Fd

BLOB = "0" * 64


class Answers:
    """A back-end that answers with its name, or fails."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.is_closed = False
        self.gate: asyncio.Event | None = None

    async def blob_size(self, blob_id: str) -> int:
        return len(await self.read_range(blob_id, 0, 0))

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise BlobUnavailable(f"blob {blob_id}: {self.name} fails")
        return self.name.encode()

    async def close(self) -> None:
        self.is_closed = True


def config(host: str, auth: str = "") -> bytes:
    return encode_backend(backend_of("registry", Registry(host=host, repo="r", auth=Secret(auth))))


class Rig:
    """Sources whose back-ends are Answers, by the host in their configuration."""

    def __init__(self) -> None:
        self.made: list[Answers] = []
        self.failing: set[str] = set()
        self.sources = Sources(self._make)
        self.routes = Routes(self.sources)

    def _make(self, backend: Backend) -> BlobBackend:
        assert backend.registry is not None
        host = backend.registry.host
        self.made.append(Answers(host, fails=host in self.failing))
        return self.made[-1]

    def source(self, host: str, auth: str = "", **settings: str) -> Source:
        source = self.sources.acquire(config(host, auth), {}, settings)
        self.routes.add(BLOB, source)
        return source

    async def ask(self, source: Source | None = None) -> str:
        if source is None:
            return (await self.routes.read_range(BLOB, 0, 1)).decode()
        with asking(source):
            return (await self.routes.read_range(BLOB, 0, 1)).decode()


async def test_the_asker_s_own_goes_first_and_the_others_when_it_fails() -> None:
    rig = Rig()
    rig.failing = {"b", "d"}
    sources = {host: rig.source(host) for host in "abcd"}
    assert await rig.ask() == "a"
    assert await rig.ask(sources["c"]) == "c"
    assert await rig.ask(sources["b"]) == "a"
    rig.routes.remove(BLOB, sources["a"])
    rig.routes.remove(BLOB, sources["c"])
    with pytest.raises(BlobUnavailable, match="d fails"):
        await rig.ask(sources["d"])
    assert await asyncio.gather(rig.ask(sources["d"]), return_exceptions=True)
    for host in "bd":
        rig.routes.remove(BLOB, sources[host])
    with pytest.raises(BlobUnavailable, match="nobody serves it"):
        await rig.ask()


async def test_those_that_mean_the_same_share_one() -> None:
    rig = Rig()
    first, second = rig.source("a", "x"), rig.source("a", "x")
    assert first is second and len(rig.made) == 1
    assert rig.source("a", "other credentials") is not first
    assert rig.source("a", "x", registry_auth="new") is not first
    await rig.sources.release(first)
    assert not rig.made[0].is_closed
    await rig.sources.release(first)
    assert rig.made[0].is_closed


async def test_new_settings_are_those_of_one_worker() -> None:
    rig = Rig()
    mine = rig.source("a")
    theirs = rig.source("a")
    changed = rig.sources.adjusted(mine, {"registry_auth": "new"})
    assert changed is not theirs and mine is theirs


async def test_none_is_closed_while_it_is_asked() -> None:
    rig = Rig()
    source = rig.source("a")
    rig.made[0].gate = asyncio.Event()
    asked = asyncio.create_task(rig.ask(source))
    await asyncio.sleep(0)
    await rig.sources.release(source)
    assert not rig.made[0].is_closed
    rig.made[0].gate.set()
    assert await asked == "a"
    assert rig.made[0].is_closed


def local(*directories: Path) -> bytes:
    first, *rest = map(str, directories)
    return encode_backend(backend_of("localfs", LocalFs(dir=first, alt_dirs=list(rest))))


def opened(*paths: Path) -> dict[str, Fd]:
    return {str(path): Fd(os.open(path, os.O_PATH)) for path in paths}


def real() -> Sources:
    return Sources(lambda backend: make_backend(backend, HttpPool()))


async def test_files_are_read_by_the_worker_s_descriptors(tmp_path: Path) -> None:
    """And not by name: one without a descriptor is nowhere, though the agent could read it."""
    for name in ("shown", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / BLOB).write_bytes(name.encode())
    sources = real()
    routes = Routes(sources)
    shown, hidden = tmp_path / "shown", tmp_path / "hidden"
    source = sources.acquire(local(hidden, shown), opened(shown), {})
    routes.add(BLOB, source)
    assert await routes.read_range(BLOB, 0, 5) == b"shown"
    routes.remove(BLOB, source)
    await sources.release(source)
    nothing = sources.acquire(local(hidden), {}, {})
    routes.add(BLOB, nothing)
    with pytest.raises(BlobNotFound) as caught:
        await routes.read_range(BLOB, 0, 5)
    assert str(hidden) in str(caught.value) and "/proc/self/fd" not in str(caught.value)
    await sources.release(nothing)


async def test_one_path_may_be_another_directory_for_another_worker(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    sources = real()
    path = str(tmp_path / "mine")
    first = sources.acquire(local(tmp_path / "mine"), opened(tmp_path / "mine"), {})
    same = sources.acquire(local(tmp_path / "mine"), opened(tmp_path / "mine"), {})
    lie = sources.acquire(local(tmp_path / "mine"), {path: Fd(os.open(tmp_path / "theirs", os.O_PATH))}, {})
    assert same is first and lie is not first
    for source in (first, same, lie):
        await sources.release(source)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"type": "x"}', b"\xff"])
async def test_what_is_no_configuration(garbage: bytes) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (no need for paths)
    with pytest.raises(BackendConfigError):
        Rig().sources.acquire(garbage, {}, {})
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
