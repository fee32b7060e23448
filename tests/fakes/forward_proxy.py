"""An HTTP proxy, as Dragonfly's dfdaemon is one: it tunnels (CONNECT), and forwards requests with whole URLs.

A request for http://HOST:443/ is forwarded with TLS, if there is a context for that: a client that wants the
proxy to see what it asks for does so. `requests` has the first line and the headers of each.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit


@dataclass
class ForwardProxy:
    """`async with` it. `login`: "user:password" that it wants. `refuse`: it answers 503 to all.

    `only_port`: of this machine, to which all requests are forwarded, whatever host they name.
    """

    tls: ssl.SSLContext | None = None
    tls_ports: set[int] = field(default_factory=set)
    login: str = ""
    refuse: bool = False
    only_port: int = 0
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.login + '@' if self.login else ''}127.0.0.1:{self.port}"

    async def __aenter__(self) -> ForwardProxy:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._one(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.title(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        self.requests.append((line, headers))
        wanted = f"Basic {base64.b64encode(self.login.encode()).decode()}"
        if self.login and headers.get("Proxy-Authorization") != wanted:
            return await _answer(writer, "407 Proxy Authentication Required")
        if self.refuse:
            return await _answer(writer, "503 Service Unavailable")
        method, target, version = line.split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            parts = urlsplit(target)
            port_number = parts.port or 80
            far_reader, far_writer = await asyncio.open_connection(
                "127.0.0.1" if self.only_port else parts.hostname,
                self.only_port or port_number,
                ssl=self.tls if port_number in self.tls_ports else None,
            )
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            kept = [one for one in rest if not one.lower().startswith(("proxy-", "connection:"))]
            lines = [f"{method} {path} {version}", *kept, "Connection: close", "", ""]
            far_writer.write("\r\n".join(lines).encode("latin-1"))
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(_pump(reader, far_writer))
                await group.create_task(_pump(far_reader, writer))
                sending.cancel()
        finally:
            far_writer.transport.abort()
        return None


async def _answer(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 << 10):
        writer.write(data)
        await writer.drain()
