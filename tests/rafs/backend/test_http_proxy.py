"""Blobs on plain HTTP servers: nginx by TCP and by a unix socket, with redirects, mirrors and odd answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from rafs.backend.config import HttpProxy, Mirror, Proxy
from rafs.backend.http import HttpPool
from rafs.backend.http_proxy import HttpProxyBackend
from rafs.errors import (
    BackendConfigError,
    BlobAuthError,
    BlobCorrupt,
    BlobNetworkError,
    BlobNotFound,
    BlobUnavailable,
)
from rafs.secret import Secret
from tests.fakes.blob_readers import BLOB_ID, CONTENT, backend_of, check_reads
from tests.fakes.fault_proxy import (
    Fault,
    FaultProxy,
    Reset,
    Short,
    Status,
    Truncated,
    WebPage,
    WholeBody,
    WrongRange,
    every,
)
from tests.fakes.registries import nginx_at
from tests.fakes.registry import HttpServer, ranged


class BlobServer(HttpServer):
    """CONTENT at /BLOB_ID and /a/b/BLOB_ID, a redirect to it at /moved, another one to itself at /loop."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[web.Request] = []
        self.head = True
        self.app.router.add_get("/{path:.*}", self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        folder, _, name = request.path.rpartition("/")
        if request.method == "HEAD" and not self.head:
            return web.Response(status=405)
        if folder == "/moved":
            return web.Response(status=307, headers={"Location": f"{self.url}/{name}"})
        if folder == "/loop":
            return web.Response(status=302, headers={"Location": request.path})
        if name != BLOB_ID or folder not in ("", "/a/b"):
            return web.Response(status=404)
        return ranged(request, CONTENT)


async def test_nginx_by_tcp_and_by_unix_socket(tmp_path: Path) -> None:
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "root" / "a" / "b" / BLOB_ID).write_bytes(CONTENT)
    with nginx_at(tmp_path / "root", tmp_path / "nginx") as nginx:
        for section in (
            {"addr": nginx.url, "path": "/a/b"},
            {"addr": f"{nginx.url}/", "path": "a/b/"},
            {"addr": f"{nginx.url}/a", "path": "b"},
            {"addr": f"{nginx.url}/a/b"},
            {"addr": str(nginx.socket), "path": "/a/b"},
        ):
            async with backend_of("http-proxy", section) as backend:
                await check_reads(backend)


async def test_servers_without_head() -> None:
    async with BlobServer() as server, backend_of("http-proxy", {"addr": server.url}) as backend:
        server.head = False
        assert await backend.blob_size(BLOB_ID) == len(CONTENT)
        with pytest.raises(BlobNotFound):
            await backend.blob_size("cd" * 32)


async def test_redirects_are_followed_and_end() -> None:
    async with BlobServer() as server:
        async with backend_of("http-proxy", {"addr": server.url, "path": "moved"}) as backend:
            await check_reads(backend)
        async with backend_of("http-proxy", {"addr": server.url, "path": "loop"}) as backend:
            with pytest.raises(BlobUnavailable, match="redirects more than 5 times"):
                await backend.read_range(BLOB_ID, 0, 1)


async def test_a_mirror_goes_first_and_its_headers_do_not_leave_it() -> None:
    async with BlobServer() as server, BlobServer() as mirror:
        mirrors = [{"host": mirror.url, "headers": {"X-Token": "secret"}}]
        section = {"addr": server.url, "path": "/a/b", "mirrors": mirrors}
        async with backend_of("http-proxy", section) as backend:
            assert await backend.read_range(BLOB_ID, 0, 9) == CONTENT[:9]
            assert [
                request.headers["X-Token"] for request in mirror.requests if "v2" not in request.path
            ] == ["secret"]
            assert await backend.read_range(BLOB_ID, 0, 9, again=True) == CONTENT[:9]
            assert ["X-Token" in request.headers for request in server.requests] == [False]
            await mirror.stop()
            assert await backend.read_range(BLOB_ID, 3, 9) == CONTENT[3:12]


async def test_requests_go_through_a_proxy() -> None:
    """It is asked for whole URLs."""
    async with BlobServer() as server, BlobServer() as proxy:
        section = {"addr": "http://blobs.invalid", "proxy": {"url": proxy.url, "fallback": False}}
        async with backend_of("http-proxy", section) as backend:
            assert await backend.read_range(BLOB_ID, 3, 9) == CONTENT[3:12]
        assert {request.raw_path for request in proxy.requests} == {f"http://blobs.invalid/{BLOB_ID}"}
        section = {"addr": server.url, "proxy": {"url": "http://127.0.0.1:1"}}
        async with backend_of("http-proxy", section) as backend:
            await check_reads(backend)


FAULTS: list[tuple[Fault, type[BlobUnavailable], bool]] = [
    (Status(401), BlobAuthError, False),
    (Status(403), BlobAuthError, False),
    (Status(404), BlobNotFound, False),
    (Status(429), BlobNetworkError, True),
    (Status(500), BlobNetworkError, True),
    (Reset(), BlobNetworkError, True),
    (Truncated(), BlobNetworkError, True),
    (Short(), BlobCorrupt, True),
    (WholeBody(), BlobCorrupt, True),
    (WebPage(), BlobCorrupt, True),
    (WrongRange(), BlobCorrupt, True),
]


@pytest.mark.parametrize(
    ("fault", "error", "passes"), FAULTS, ids=lambda value: repr(value) if isinstance(value, Fault) else ""
)
async def test_faults(fault: Fault, error: type[BlobUnavailable], passes: bool) -> None:
    async with (
        BlobServer() as server,
        FaultProxy(server.url) as proxy,
        backend_of("http-proxy", {"addr": proxy.url}) as backend,
    ):
        proxy.plan = every(2, fault)
        if passes:
            for offset in range(0, len(CONTENT), 250_000):
                assert await backend.read_range(BLOB_ID, offset, 250_000) == CONTENT[offset:][:250_000]
        proxy.plan = every(1, fault)
        with pytest.raises(error, match=f"blob {BLOB_ID}: 9 bytes at offset 5: {proxy.host}: ") as caught:
            await backend.read_range(BLOB_ID, 5, 9)
        assert type(caught.value) is error


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (HttpProxy(addr=Secret("hunter2")), "http-proxy.addr: it must be"),
        (HttpProxy(addr=Secret("ftp://hunter2")), "http-proxy.addr: it must be"),
        (HttpProxy(addr=Secret("http://")), "http-proxy.addr: it must be"),
        (HttpProxy(addr=Secret("http://host:hunter2")), "http-proxy.addr: it must be"),
        (HttpProxy(addr=Secret("http://host/?hunter2")), "http-proxy.addr: it must be"),
        (HttpProxy(addr=Secret("/socket"), mirrors=[Mirror(host="http://m")]), "not for a unix socket"),
        (HttpProxy(addr=Secret("/socket"), proxy=Proxy(url=Secret("http://p"))), "not for a unix socket"),
    ],
)
def test_what_cannot_be_is_refused_by_name(config: HttpProxy, reason: str) -> None:
    with pytest.raises(BackendConfigError, match=reason) as caught:
        HttpProxyBackend(HttpPool(), config)
    assert "hunter2" not in str(caught.value)


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    async with backend_of("http-proxy", {"addr": str(tmp_path / "none")}) as backend:
        with pytest.raises(BlobNetworkError, match=f"{tmp_path}/none: no connection: No such file"):
            await backend.read_range(BLOB_ID, 0, 1)
