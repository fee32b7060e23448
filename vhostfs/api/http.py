"""HTTP over a Unix socket, by aiohttp's server. No route and no state is known here.

Only the server half of aiohttp is loaded. Importing the package runs its `__init__`, which imports the client
first: as much again in time and memory, in a process that Kata waits for and that exists once for each VM.
So an empty package stands in its place; whoever wants more of it gets the whole one (`_load`).

Connections that are idle, or have not said anything yet, stay open for ever: to some clients they are the
sign that the daemon lives (contract 4.5).
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from vhostfs.api.routes import MAX_BODY, Answer, error_answer
from virtqueue.listener import Listener


def _stand_in_for_aiohttp() -> None:
    if "aiohttp" in sys.modules:
        return
    spec = importlib.util.find_spec("aiohttp")
    if spec is None or spec.loader is None:
        raise ImportError("aiohttp is not installed")
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def load(name: str) -> Any:
        """Called for what the package does not have yet (PEP 562)."""
        if name.startswith("__"):  # asked by the import system, of every module
            raise AttributeError(name)
        with suppress(ModuleNotFoundError):  # most are modules of the package
            return importlib.import_module(f"aiohttp.{name}")
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__["__getattr__"] = load
    package.__dict__["__version__"] = ""  # of the Server header, which is ours
    sys.modules["aiohttp"] = package


_stand_in_for_aiohttp()

from aiohttp.abc import AbstractStreamWriter  # noqa: E402
from aiohttp.http_parser import RawRequestMessage  # noqa: E402
from aiohttp.streams import StreamReader  # noqa: E402
from aiohttp.web_exceptions import HTTPRequestEntityTooLarge  # noqa: E402
from aiohttp.web_protocol import RequestHandler  # noqa: E402
from aiohttp.web_request import BaseRequest  # noqa: E402
from aiohttp.web_response import Response, StreamResponse  # noqa: E402
from aiohttp.web_server import Server  # noqa: E402

log = logging.getLogger(__name__)

#: longer than any machine runs; 0 would close a connection after its first answer
FOREVER_S = 1e9
#: connections that may wait to be accepted: the kernel's own bound is lower
BACKLOG = 1024
#: how long answers that are being made are waited for at the end
CLOSE_DEADLINE_S = 0.3

HEADERS = {"Server": "Nydus API", "Content-Type": "application/json"}

AnswerRequest = Callable[[str, str, bytes], Awaitable[Answer]]


class _Connection(RequestHandler):
    """aiohttp's, with errors as our clients parse them."""

    __slots__ = ()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """What aiohttp itself refuses: it is no HTTP."""
        log.warning("%s", message or "a request could not be read")
        response = _response(error_answer(status, message or "the request could not be read"))
        response.force_close()
        return response


class _Server(Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class HttpServer:
    """Serves `answer_request(method, target, body)` at a path from `start` to `close`."""

    def __init__(self, answer_request: AnswerRequest) -> None:
        self._answer_request = answer_request
        self._server: _Server | None = None
        self._listening: asyncio.Server | None = None

    async def start(self, listener: Listener) -> None:
        """Answer who connects. The listener stays the caller's."""
        loop = asyncio.get_running_loop()
        self._server = _Server(
            self._handle,
            request_factory=self._make_request,
            handler_cancellation=True,  # whoever gives up does not want its mount any more
            access_log=None,
            tcp_keepalive=False,
            keepalive_timeout=FOREVER_S,
            max_line_size=64 << 10,
            max_field_size=64 << 10,
            auto_decompress=False,
        )
        self._listening = await loop.create_unix_server(self._server, sock=listener.sock, backlog=BACKLOG)

    async def close(self) -> None:
        """Take no more connections; send the answers that are being made; close."""
        if self._listening is not None:
            self._listening.close()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(CLOSE_DEADLINE_S)

    async def _handle(self, request: BaseRequest) -> StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # type: ignore[attr-defined, unused-ignore]
        try:
            body = await request.read()
        except HTTPRequestEntityTooLarge:
            return _response(error_answer(413, f"BadRequest: the body has more than {MAX_BODY} bytes"))
        return _response(await self._answer_request(request.method, request.raw_path, body))

    @staticmethod
    def _make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> BaseRequest:
        loop = asyncio.get_running_loop()
        return BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


def _response(answer: Answer) -> Response:
    return Response(status=answer.status, body=answer.body, headers=HEADERS)
