"""A whole image read by a guest's driver from real servers, whatever these and the network do: right bytes.

Registry (no login, basic, bearer with tokens of a few seconds), registry with redirects to nginx, and nginx
alone; before them the proxy that spoils answers, each fault again and again.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from native.dataplane import ChunkStore, Device
from rafs.backend.config import Mirror, Registry
from rafs.backend.http import HttpPool
from rafs.backend.protocol import BlobBackend
from rafs.backend.registry import RegistryBackend
from rafs.blob_record import BlobRecord
from rafs.blob_store import BlobStore
from rafs.fetch import FetchResources
from rafs.image import Image
from rafs.metered import MeteredBackend
from rafs.secret import Secret
from rafs.upcalls import Upcalls
from tests.fakes.accounts import BASIC, PASSWORD, REPOSITORY, USER
from tests.fakes.blob_store import joined
from tests.fakes.fault_proxy import (
    Drip,
    Fault,
    FaultProxy,
    FlippedBit,
    NoHttp,
    Plan,
    Reset,
    Short,
    Stalled,
    Status,
    TooLong,
    Truncated,
    WebPage,
    WholeBody,
    WrongRange,
    every,
)
from tests.fakes.quick import no_docker_config, short_pauses
from tests.fakes.registries import DockerRegistry, docker_registry_at, nginx_at, signed_path
from tests.fakes.registry import FakeRegistry
from tests.fakes.token_server import TokenServer
from tests.vhostfs.test_daemon import Guest
from vhostfs.front_ends import serve_front_ends
from vhostfs.runtime import background
from virtqueue.listener import Listener

__all__ = ["no_docker_config", "short_pauses"]

FILES = 40
FAULTS: list[Fault] = [
    Status(429),
    Status(500),
    Status(503, retry_after="0"),
    Reset(),
    Reset(0),
    Truncated(),
    Short(),
    TooLong(),
    FlippedBit(),
    Stalled(),
    Drip(0.01),
    WholeBody(),
    WebPage(),
    WrongRange(),
    NoHttp(),
]


@dataclass(frozen=True)
class Pushed:
    """An image of 12 MiB: what is in its files, its bootstrap, and the folder of a registry with its blob."""

    files: dict[bytes, bytes]
    bootstrap: Path
    blob_dir: Path
    folder: Path

    @property
    def blob(self) -> Path:
        (blob,) = self.blob_dir.iterdir()
        return blob


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    top = tmp_path_factory.mktemp("pushed")
    source = top / "source"
    source.mkdir()
    rng = random.Random(3)
    files = {}
    for number in range(FILES):
        # half of it compresses
        size = rng.choice([1000, 50_000, 300_000, 700_000])
        content = rng.randbytes(size // 2) + bytes(size // 2)
        (source / f"f{number}").write_bytes(content)
        files[f"/f{number}".encode()] = content
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "build", source, "--chunk-size", "64KiB"]
    command += ["--bootstrap", top / "boot", "--blob-dir", top / "blobs"]
    subprocess.run(command, check=True, capture_output=True)
    image = Pushed(files, top / "boot", top / "blobs", top / "registry")
    with docker_registry_at(image.folder) as registry:
        digest = registry.push_blob(REPOSITORY, image.blob.read_bytes())
    assert digest == f"sha256:{image.blob.name}"
    return image


@asynccontextmanager
async def reading(image: Pushed, backend: BlobBackend, where: Path) -> AsyncIterator[tuple[Guest, BlobStore]]:
    """A guest of a device that serves the image from `backend`, with an empty cache."""
    where.mkdir()
    opened = Image(image.bootstrap)
    chunks = ChunkStore()
    upcalls, resources = Upcalls(chunks), FetchResources()
    upcalls.start()
    store = BlobStore(joined(where / "cache"), backend, upcalls, resources)
    store.start()
    device = Device(chunks)
    listener = Listener.bind(str(where / "sock"))
    try:
        record = BlobRecord.parse(opened.blob_record(0))
        blob = await store.open_blob(record)
        device.mount_image("/", opened, [blob.native])
        async with background(serve_front_ends(listener, device)):
            guest = await asyncio.to_thread(Guest, str(where / "sock"))
            try:
                yield guest, store
            finally:
                await asyncio.to_thread(guest.close)
                upcalls.stop()
                await store.stop()
    finally:
        listener.close()
        device.close()
        upcalls.stop()
        await store.close()
        resources.close()
        opened.close()
        chunks.close()


async def check_all_files(image: Pushed, config: Registry, where: Path) -> MeteredBackend:
    """Read every file, in an order by chance; nothing may be wrong, and nothing fail."""
    pool = HttpPool()
    backend = MeteredBackend(RegistryBackend(pool, config))
    try:
        async with reading(image, backend, where) as (guest, store):
            names = list(image.files)
            random.Random(7).shuffle(names)
            for name in names:
                assert await asyncio.to_thread(guest.read, name) == image.files[name], name
            assert store.statistics()["failed_chunks"] == 0
    finally:
        await backend.close()
        await pool.close()
    return backend


def registry_config(host: str, **fields: object) -> Registry:
    chosen = {"scheme": "http", "repo": REPOSITORY, "timeout": 1, "connect_timeout": 1} | fields
    return Registry(host=host, **chosen)  # type: ignore[arg-type]


def each_in_turn(faults: Sequence[Fault]) -> Plan:
    """Spoil every third answer, each in the next way."""
    turn = -1

    def plan(request: web.Request, answer: object) -> Fault | None:
        nonlocal turn
        turn += 1
        return faults[turn // 3 % len(faults)] if turn % 3 == 1 else None

    return plan


def check_all_were_there(proxy: FaultProxy) -> None:
    assert set(proxy.counters) - {"answers"} == {type(fault).__name__ for fault in FAULTS}


@contextmanager
def registry_with(
    image: Pushed, login: str
) -> Iterator[tuple[DockerRegistry, dict[str, object], TokenServer]]:
    """A registry that wants a login, the configuration for it, and its token server, of 3 s tokens."""
    fields: dict[str, object] = {"auth": Secret(BASIC)} if login else {}
    with (
        TokenServer(USER, PASSWORD, life_s=3) as tokens,
        docker_registry_at(image.folder, login=login, token_server=tokens) as registry,
    ):
        yield registry, fields, tokens


@pytest.mark.parametrize("login", ["", "basic", "bearer"])
async def test_a_whole_image_from_a_real_registry(pushed: Pushed, login: str, tmp_path: Path) -> None:
    with registry_with(pushed, login) as (registry, fields, tokens):
        config = registry_config(registry.host, **fields)
        backend = await check_all_files(pushed, config, tmp_path / "direct")
        assert backend.statistics.errors == 0
        assert (tokens.issued > 0) == (login == "bearer")


@pytest.mark.parametrize("login", ["", "bearer"])
async def test_a_whole_image_while_answers_are_spoiled(pushed: Pushed, login: str, tmp_path: Path) -> None:
    with registry_with(pushed, login) as (registry, fields, tokens):
        async with FaultProxy(registry.url) as proxy:
            proxy.plan = each_in_turn(FAULTS)
            config = registry_config(proxy.host, **fields)
            backend = await check_all_files(pushed, config, tmp_path / "spoiled")
            check_all_were_there(proxy)
        assert backend.statistics.errors == 0
        assert not login or tokens.issued > 1  # it took longer than a token lives


async def test_a_whole_image_by_redirects_while_the_storage_spoils_answers(
    pushed: Pushed, tmp_path: Path
) -> None:
    """A 403, 404 and 410 of the storage are the end of that URL only."""
    with nginx_at(pushed.folder, tmp_path / "nginx") as nginx:
        async with FaultProxy(nginx.url) as proxy:
            proxy.plan = each_in_turn([*FAULTS, Status(403), Status(404), Status(410)])
            with docker_registry_at(pushed.folder, redirect_to=proxy.url) as registry:
                backend = await check_all_files(pushed, registry_config(registry.host), tmp_path / "spoiled")
            check_all_were_there(proxy)
        assert backend.statistics.errors == 0


@pytest.mark.parametrize(
    "fault",
    [*FAULTS, Status(403), Status(404)],
    ids=lambda fault: f"{type(fault).__name__}{getattr(fault, 'status', '')}",
)
async def test_a_whole_image_beside_a_mirror_that_spoils_everything(
    pushed: Pushed, fault: Fault, tmp_path: Path
) -> None:
    with docker_registry_at(pushed.folder) as registry:
        async with FaultProxy(registry.url) as proxy:
            proxy.plan = every(1, fault)
            mirror = Mirror(host=proxy.url, failure_limit=2, health_check_interval=60)
            backend = await check_all_files(
                pushed, registry_config(registry.host, mirrors=[mirror]), tmp_path / "mirror"
            )
            assert proxy.counters[type(fault).__name__]
            assert backend.statistics.errors == 0


async def test_a_whole_image_by_signed_urls_that_expire_at_once(pushed: Pushed, tmp_path: Path) -> None:
    """nginx checks them; they hold for a second."""
    with nginx_at(pushed.blob_dir, tmp_path / "nginx") as nginx:

        async def sign(request: web.Request) -> web.Response:
            path = signed_path(pushed.blob.name, int(time.time()) + 1)
            return web.Response(status=307, headers={"Location": nginx.url + path})

        async with FakeRegistry() as registry:
            registry.answer = sign
            backend = await check_all_files(pushed, registry_config(registry.host), tmp_path / "signed")
        assert backend.statistics.errors == 0
