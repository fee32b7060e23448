"""Blobs on a plain HTTP server: HEAD tells their sizes, GET with Range gives parts of them.

nydusd calls it http-proxy: most often the server stands in for a registry that it knows how to reach. It is
at `http(s)://host`, or at a unix socket. A blob is at the address, `path` and its id, a slash between each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from rafs.backend.body import ByteRange, check_range_answer, read_body, refusal
from rafs.backend.config import HttpProxy
from rafs.backend.http import HttpFailure, HttpPool, host_of
from rafs.backend.mirrors import Route, Routes
from rafs.backend.remote import http_options, make_routes
from rafs.blob_record import parse_blob_id
from rafs.errors import BackendConfigError

if TYPE_CHECKING:
    import aiohttp

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
#: how a server answers that does not know HEAD
_NO_HEAD = (405, 501)


class HttpProxyBackend:
    """A BlobBackend. The pool is the caller's."""

    def __init__(self, pool: HttpPool, config: HttpProxy) -> None:
        """Connects to nothing yet. Raises BackendConfigError."""
        self._pool = pool
        self._options = http_options(config)
        self._socket = ""
        path = config.path.strip("/")
        address = config.addr.reveal().rstrip("/")
        if address.startswith("/"):
            if config.mirrors or config.proxy.url:
                raise BackendConfigError("http-proxy: mirrors and proxies are not for a unix socket")
            self._socket = address
            routes = [Route("http://localhost", address)]
            self._path = f"/{path}" if path else ""
        else:
            base, below = _checked(address)
            routes = make_routes(pool, config, base, config.proxy)
            self._path = f"{below}/{path}" if path else below
        self._routes = Routes(pool, self._options, routes)
        self._last: Route | None = None

    async def blob_size(self, blob_id: str) -> int:
        where = f"{self._path}/{parse_blob_id(blob_id)}"

        async def attempt(route: Route) -> int:
            try:
                async with self._ask(route, "HEAD", where) as response:
                    if response.content_length is not None:
                        return int(response.content_length)
            except HttpFailure as failure:
                if failure.status not in _NO_HEAD:
                    raise
            _, size = await self._read(route, where, ByteRange(0, 1), {})
            if size is None:
                raise HttpFailure("corrupt", route.name, "does not tell the size of the blob")
            return size

        return await self._routes.run(f"blob {blob_id}: its size", attempt)

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        if length == 0:
            return b""
        where = f"{self._path}/{parse_blob_id(blob_id)}"
        headers = {"Cache-Control": "no-cache"} if again else {}

        async def attempt(route: Route) -> bytes:
            data, _ = await self._read(route, where, ByteRange(offset, length), headers)
            self._last = route
            return data

        what = f"blob {blob_id}: {length} bytes at offset {offset}"
        return await self._routes.run(what, attempt, avoid=self._last if again else None)

    async def close(self) -> None:
        """Connections are the pool's."""

    async def _read(
        self, route: Route, where: str, asked: ByteRange, headers: dict[str, str]
    ) -> tuple[bytes, int | None]:
        """One range, on one way: (its bytes, the size of the blob if that is told)."""
        headers = {**headers, "Range": asked.header}
        async with self._ask(route, "GET", where, headers, asked.length) as response:
            size = check_range_answer(response, asked, route.name)
            return await read_body(response, asked.length, route.name, self._options), size

    @asynccontextmanager
    async def _ask(
        self, route: Route, method: str, where: str, headers: dict[str, str] | None = None, length: int = 0
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, if it is a success, after redirects. Raises HttpFailure."""
        url = route.base + where
        for _ in range(MAX_REDIRECTS + 1):
            # what the headers of a mirror say is for the mirror
            own = dict(route.headers) if url.startswith(route.base) else {}
            async with self._pool.exchange(
                method,
                route.rewritten(url),
                self._options,
                headers=own | (headers or {}),
                length=length,
                proxy=None if self._socket else route.proxy_for(url),
                unix_socket=self._socket,
                name=route.name,
            ) as response:
                if response.status in (200, 206):
                    yield response
                    return
                target = response.headers.get("Location", "")
                if response.status not in _REDIRECTS or not target or self._socket:
                    raise await refusal(response, route.name)
                url = urljoin(url, target)
        raise HttpFailure("other", route.name, f"redirects more than {MAX_REDIRECTS} times")


def _checked(address: str) -> tuple[str, str]:
    """The address as (scheme://host, path). Raises BackendConfigError."""
    try:
        url = urlsplit(address)
        if url.scheme in ("http", "https") and host_of(address) and not (url.query or url.fragment):
            return f"{url.scheme}://{url.netloc}", url.path
    except ValueError:
        pass
    raise BackendConfigError(
        "http-proxy.addr: it must be a URL that begins with http:// or https://, or the path of a unix socket"
    )
