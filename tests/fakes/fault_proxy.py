"""An HTTP server in front of another one that spoils some of its answers.

    async with FaultProxy(upstream_url) as proxy:
        proxy.plan = every(3, Truncated())
        ...proxy.url

`plan` is asked for each answer that has a part of a blob (206), and says what is done to it; without it, and
where it says None, answers pass as they are. `spoil` is asked instead for all other answers. Headers pass,
the Host too: a registry then names this proxy in what it redirects to itself.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tests.fakes.registry import HttpServer

_NOT_PASSED = ("Transfer-Encoding", "Connection", "Keep-Alive", "Content-Length", "Date", "Server")


@dataclass
class Answer:
    """What the server behind it said."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    async def begin(
        self, request: web.Request, *, length: int | None = None, **changes: str
    ) -> web.StreamResponse:
        """Send the head of the answer; `changes` are of headers, with _ for -; `length`: said of the body."""
        headers = self.headers.copy()
        for name, value in changes.items():
            headers[name.replace("_", "-")] = value
        response = web.StreamResponse(status=self.status, headers=headers)
        response.content_length = len(self.body) if length is None else length
        await response.prepare(request)
        return response


class Fault:
    """Something to do to an answer."""

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        raise NotImplementedError


Plan = Callable[[web.Request, Answer], Fault | None]


@dataclass
class Status(Fault):
    """Another status, as for one who may not or should come later."""

    status: int
    retry_after: str = ""
    challenge: str = ""

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        if self.challenge:
            headers["WWW-Authenticate"] = self.challenge
        return web.json_response({"errors": [{"code": "INJECTED"}]}, status=self.status, headers=headers)


@dataclass
class Reset(Fault):
    """A connection that is reset in the middle of the body, or before it with `part` 0."""

    part: float = 0.5

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        assert request.transport is not None
        response: web.StreamResponse = web.Response()
        if self.part:
            response = await answer.begin(request)
            await response.write(answer.body[: int(len(answer.body) * self.part)])
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
        return response


@dataclass
class Truncated(Fault):
    """A connection that ends well in the middle of the body."""

    part: float = 0.5

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        assert request.transport is not None
        response = await answer.begin(request)
        await response.write(answer.body[: int(len(answer.body) * self.part)])
        request.transport.close()
        return response


@dataclass
class Short(Fault):
    """Fewer bytes than were asked for, well framed and announced as if they were all."""

    missing: int = 1

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        body = answer.body[: -self.missing]
        response = await answer.begin(request, length=len(body))
        await response.write(body)
        return response


@dataclass
class TooLong(Fault):
    """More bytes than were asked for, without a length."""

    extra: int = 1

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(answer.body + b"x" * self.extra)
        return response


@dataclass
class FlippedBit(Fault):
    """One bit of the body is another."""

    at: float = 0.5

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        body = bytearray(answer.body)
        body[int(len(body) * self.at)] ^= 0x10
        response = await answer.begin(request)
        await response.write(bytes(body))
        return response


@dataclass
class Stalled(Fault):
    """Nothing more comes in the middle of the body, or at all with `part` 0, until the client gives up."""

    part: float = 0.5

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        if self.part:
            response = await answer.begin(request)
            await response.write(answer.body[: int(len(answer.body) * self.part)])
        await asyncio.Event().wait()
        raise AssertionError("the handler is cancelled when the client goes")


@dataclass
class Drip(Fault):
    """A byte now and then, for ever."""

    interval_s: float = 0.1

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = await answer.begin(request)
        for at in range(len(answer.body)):
            await response.write(answer.body[at : at + 1])
            await asyncio.sleep(self.interval_s)
        return response


class WholeBody(Fault):
    """200 instead of 206, as of a cache that does not know ranges: the part, as if it were all."""

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        body = b"the whole blob" + answer.body
        return web.Response(body=body, content_type="application/octet-stream")


class WebPage(Fault):
    """200 and a page in HTML, as of a login in between."""

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        return web.Response(text="<html><body>Please log in</body></html>", content_type="text/html")


class WrongRange(Fault):
    """Another range than was asked for, and said to be so."""

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = await answer.begin(request, Content_Range=f"bytes 7-{6 + len(answer.body)}/*")
        await response.write(answer.body)
        return response


class NoHttp(Fault):
    """Something else than HTTP."""

    async def __call__(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"220 mail.example ESMTP\r\n")
        request.transport.close()
        return web.Response()


def every(count: int, fault: Fault, *, first: int = 1) -> Plan:
    """A plan that spoils the answer number `first` and then each `count`-th."""
    seen = 0

    def plan(request: web.Request, answer: Answer) -> Fault | None:
        nonlocal seen
        seen += 1
        return fault if seen >= first and (seen - first) % count == 0 else None

    return plan


class FaultProxy(HttpServer):
    """See the module. `counters`: "answers", and the faults by the name of their class."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self.upstream = upstream
        self.plan: Plan | None = None
        self.spoil: Plan | None = None
        self.counters: Counter[str] = Counter()
        self.app.router.add_route("*", "/{path:.*}", self._pass)

    async def start(self, port: int = 0) -> None:
        await super().start(port)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def stop(self) -> None:
        await super().stop()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name not in _NOT_PASSED}
        async with self._session.request(
            request.method,
            self.upstream + request.raw_path,
            headers=headers,
            data=await request.read() or None,
            allow_redirects=False,
        ) as behind:
            passed = CIMultiDict((n, v) for n, v in behind.headers.items() if n not in _NOT_PASSED)
            answer = Answer(behind.status, passed, await behind.read())
            told = {} if behind.content_length is None else {"Content-Length": str(behind.content_length)}
        self.counters["answers"] += 1
        plan = self.plan if answer.status == 206 else self.spoil
        if plan is not None and (fault := plan(request, answer)) is not None:
            self.counters[type(fault).__name__] += 1
            return await fault(request, answer)
        if request.method == "HEAD":
            return web.Response(status=answer.status, headers={**passed, **told})
        return web.Response(status=answer.status, headers=passed, body=answer.body)
