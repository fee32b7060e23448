"""The HTTP core: TLS both ways, proxies, connections that are used again, and who is to blame."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from rafs.backend.http import HttpFailure, HttpOptions, HttpPool, environment_proxy, host_of
from rafs.backend.rate import RateLimit
from tests.fakes.certificates import Certified, certified
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.registry import FakeRegistry, HttpServer

CONTENT = bytes(range(256)) * 4
BLOB_ID = hashlib.sha256(CONTENT).hexdigest()


@asynccontextmanager
async def pooled(limit: RateLimit | None = None) -> AsyncIterator[HttpPool]:
    pool = HttpPool(limit)
    try:
        yield pool
    finally:
        await pool.close()


async def get(pool: HttpPool, url: str, options: HttpOptions | None = None, proxy: str | None = None) -> int:
    async with pool.exchange("GET", url, options or HttpOptions(), proxy=proxy) as response:
        await response.read()
        return int(response.status)


async def failure(
    pool: HttpPool, url: str, options: HttpOptions | None = None, proxy: str | None = None
) -> HttpFailure:
    with pytest.raises(HttpFailure) as info:
        await get(pool, url, options, proxy)
    return info.value


# TLS


@pytest.fixture(scope="module")
def authority() -> Certified:
    return certified("an authority")


@asynccontextmanager
async def tls_server(
    authority: Certified, folder: Path, *, wants_client: bool = False
) -> AsyncIterator[FakeRegistry]:
    """A registry with a certificate of the authority; the authority's own is in folder/ca.crt."""
    authority.write(folder, "ca")
    certificate, key = certified("a registry", authority).write(folder, "server")
    registry = FakeRegistry()
    registry.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    registry.tls.load_cert_chain(certificate, key)
    if wants_client:
        registry.tls.load_verify_locations(folder / "ca.crt")
        registry.tls.verify_mode = ssl.CERT_REQUIRED
    async with registry:
        yield registry


async def test_trust_has_to_be_configured(authority: Certified, tmp_path: Path) -> None:
    async with tls_server(authority, tmp_path) as registry, pooled() as pool:
        refused = await failure(pool, f"{registry.url}/v2/")
        assert (refused.kind, refused.again) == ("network", False)
        assert "its certificate is not trusted (" in str(refused) and "ca_cert_files" in str(refused)
        ours = HttpOptions(ca_cert_files=(str(tmp_path / "ca.crt"),))
        assert await get(pool, f"{registry.url}/v2/", ours) == 200
        assert await get(pool, f"{registry.url}/v2/", HttpOptions(skip_verify=True)) == 200
        by_name = registry.url.replace("127.0.0.1", "localhost")
        assert await get(pool, f"{by_name}/v2/", ours) == 200
        other = certified("another").write(tmp_path, "other")[0]
        refused = await failure(pool, f"{registry.url}/v2/", HttpOptions(ca_cert_files=(str(other),)))
        assert "not trusted" in str(refused)


async def test_certificates_of_the_client(authority: Certified, tmp_path: Path) -> None:
    async with tls_server(authority, tmp_path, wants_client=True) as registry, pooled() as pool:
        nobody = HttpOptions(ca_cert_files=(str(tmp_path / "ca.crt"),))
        assert (await failure(pool, f"{registry.url}/v2/", nobody)).kind == "network"
        certificate, key = certified("a node", authority).write(tmp_path, "client")
        node = replace(nobody, client_cert_file=str(certificate), client_key_file=str(key))
        assert await get(pool, f"{registry.url}/v2/", node) == 200


async def test_files_that_change_are_read_again(authority: Certified, tmp_path: Path) -> None:
    async with tls_server(authority, tmp_path) as registry, pooled() as pool:
        file = certified("another").write(tmp_path, "trusted")[0]
        options = HttpOptions(ca_cert_files=(str(file),))
        assert "not trusted" in str(await failure(pool, f"{registry.url}/v2/", options))
        file.write_bytes((tmp_path / "ca.crt").read_bytes())
        os.utime(file, ns=(1, 1))  # another time than before, whatever the clock of the disk
        assert await get(pool, f"{registry.url}/v2/", options) == 200


async def test_files_that_are_of_no_use(authority: Certified, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    async with pooled() as pool:
        for name in ("missing", "empty"):
            options = HttpOptions(ca_cert_files=(str(tmp_path / name),))
            wrong = await failure(pool, "https://127.0.0.1:1/", options)
            assert wrong.kind == "other" and f"cannot use {tmp_path / name} for TLS: " in str(wrong)


async def test_who_speaks_no_tls() -> None:
    async with FakeRegistry() as registry, pooled() as pool:
        wrong = await failure(pool, registry.url.replace("http:", "https:"))
        assert wrong.kind == "network" and "no TLS with it" in str(wrong)


# connections


async def test_connections_are_used_again() -> None:
    connections = set()

    async def hello(request: web.Request) -> web.Response:
        assert request.transport is not None
        connections.add(request.transport.get_extra_info("peername"))
        return web.Response(body=bytes(4 << 20))

    server = HttpServer()
    server.app.router.add_get("/", hello)
    async with server, pooled() as pool:
        for _ in range(5):
            assert await get(pool, f"{server.url}/") == 200
        assert len(connections) == 1
        async with pool.exchange("GET", f"{server.url}/", HttpOptions()):
            pass  # with a body left in it
        assert await get(pool, f"{server.url}/") == 200
        assert len(connections) == 2
        assert pool.counters["requests"] == pool.counters["2xx"] == 7


async def test_a_unix_socket(tmp_path: Path) -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=request.path)

    app = web.Application()
    app.router.add_get("/{path:.*}", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    path = str(tmp_path / "sock")
    await web.UnixSite(runner, path).start()
    async with pooled() as pool:
        async with pool.exchange("GET", "http://localhost/x", HttpOptions(), unix_socket=path) as response:
            assert await response.text() == "/x"
        await runner.cleanup()
        with pytest.raises(HttpFailure, match=f"^{path}: no connection: "):
            async with pool.exchange("GET", "http://localhost/x", HttpOptions(), unix_socket=path):
                pass


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


async def test_nobody_there(deaf: int) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    quick = HttpOptions(connect_timeout_s=0.1, timeout_s=0.1)
    async with pooled() as pool:
        assert str(await failure(pool, f"http://127.0.0.1:{port}/")).endswith(
            "no connection: Connection refused"
        )
        assert str(await failure(pool, f"http://127.0.0.1:{deaf}/", quick)).endswith("no answer within 0.1 s")
        assert str(await failure(pool, f"https://127.0.0.1:{deaf}/", quick)).endswith("within 0.1 s")
        unknown = await failure(pool, "http://no-such-host.invalid/")
        assert str(unknown) == "no-such-host.invalid: its name cannot be resolved"
        for url in ("http://", "nonsense", "http://[x"):
            assert (await failure(pool, url)).kind == "other"


# proxies


async def test_a_proxy_tunnels_tls_and_forwards_what_has_none(authority: Certified, tmp_path: Path) -> None:
    async with (
        tls_server(authority, tmp_path) as secure,
        FakeRegistry() as plain,
        ForwardProxy(login="me:secret") as proxy,
        pooled() as pool,
    ):
        ours = HttpOptions(ca_cert_files=(str(tmp_path / "ca.crt"),))
        assert await get(pool, f"{secure.url}/v2/", ours, proxy.url) == 200
        assert await get(pool, f"{plain.url}/v2/", ours, proxy.url) == 200
        lines = [line for line, _ in proxy.requests]
        assert lines == [f"CONNECT {secure.host} HTTP/1.1", f"GET {plain.url}/v2/ HTTP/1.1"]
        assert not any("Proxy-Authorization" in seen.headers for seen in secure.requests)
        wrong = await failure(pool, f"{secure.url}/v2/", ours, proxy.url.replace("secret", "wrong"))
        assert "the proxy answers 407 to CONNECT" in str(wrong) and "wrong" not in str(wrong)
    async with pooled() as pool:
        gone = await failure(pool, "https://registry.invalid/", None, proxy.url)
        assert str(gone).startswith("registry.invalid: no connection to the proxy: ")
        assert "secret" not in str(gone)


def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_proxy("https://reg/x") is None
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost,.internal")
    assert environment_proxy("https://reg/x") == "http://proxy:3128"
    assert environment_proxy("http://reg/x") is None
    assert environment_proxy("https://a.internal:5000/x") is None


def test_hosts_of_urls() -> None:
    assert host_of("https://user:pass@reg.example:5000/x") == "reg.example:5000"
    assert host_of("http://[::1]:80/") == "[::1]:80"
    assert host_of("https://reg.example") == "reg.example"


async def test_the_rate_of_a_host_holds_for_all_that_ask_it() -> None:
    async with FakeRegistry() as registry, pooled(RateLimit(requests_per_s=50)) as pool:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(get(pool, f"{registry.url}/v2/") for _ in range(70)))
        assert loop.time() - began >= 18 / 50  # 50 are saved up, one goes on credit
