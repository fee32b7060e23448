"""HTTP/1.1 over a Unix socket: h11 knows the protocol, asyncio the socket. No routes and no state in here.

h11 and not aiohttp, whose server takes ten times as long to import, and 5 MB: Kata waits for this daemon, and
there is one for each VM.

A connection answers one request at a time; what a client sends ahead waits, up to MAX_AHEAD bytes.
Connections that are idle, or have not said anything yet, stay open for ever: to some clients they are the
sign that the daemon lives (contract 4.5). Who hangs up, or just its sending side, has given up: its request
is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast

import h11

from vhostfs.api.routes import MAX_BODY, Answer, error_answer
from virtqueue.listener import Listener

log = logging.getLogger(__name__)

#: connections that may wait to be accepted: the kernel's own bound is lower
BACKLOG = 1024
#: of a request line and its headers
MAX_HEAD = 64 << 10
#: read while a request is being answered
MAX_AHEAD = 64 << 10
#: how long answers that are being made are waited for at the end
CLOSE_DEADLINE_S = 0.3

AnswerRequest = Callable[[str, str, bytes], Awaitable[Answer]]


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._ahead = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self.task: asyncio.Task[None] | None = None

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's only look like it
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        if self.task is None:
            self._go_on()
            return
        self._ahead += len(data)
        if self._ahead > MAX_AHEAD:  # and only then: who does not read does not see the client go
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # requests

    def _go_on(self) -> None:
        try:
            while self.task is None and self._take(self._http.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            log.warning("a request could not be read: %s", error)
            status = error.error_status_hint if error.error_status_hint in (413, 414, 431) else 400
            self._send(error_answer(status, f"BadRequest: {error}"), close=True)

    def _take(self, event: object) -> bool:
        """Whether there may be more to take."""
        if isinstance(event, h11.Request):
            if event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError(f"HTTP {event.http_version.decode()} is not spoken here")
            self._request = event
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
                self._transport.write(self._http.send(go_on) or b"")
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > MAX_BODY:
                text = f"BadRequest: the body has more than {MAX_BODY} bytes"
                self._send(error_answer(413, text), close=True)
                return False
        elif isinstance(event, h11.EndOfMessage):
            self.task = asyncio.get_running_loop().create_task(self._answer())
        elif isinstance(event, h11.ConnectionClosed):
            self._transport.close()
            return False
        return event is not h11.NEED_DATA and event is not h11.PAUSED

    async def _answer(self) -> None:
        assert self._request is not None
        method, target = self._request.method.decode(), self._request.target.decode("latin-1")
        body = bytes(self._body)
        self._request, self._body = None, bytearray()
        answer = await self._server.answer_request(method, target, body)
        await self._writable.wait()  # a client that does not read its answers gets no more of them
        self.task = None
        self._send(answer, close=self._server.is_closing)
        if not self._transport.is_closing():
            self._ahead = 0
            self._transport.resume_reading()
            self._go_on()

    def _send(self, answer: Answer, *, close: bool) -> None:
        headers = [("Server", "Nydus API"), ("Content-Type", answer.kind)]
        if answer.status != 204:  # RFC 9110, 8.6
            headers.append(("Content-Length", str(len(answer.body or b""))))
        if close:
            headers.append(("Connection", "close"))
        reason = HTTPStatus(answer.status).phrase
        head = h11.Response(status_code=answer.status, headers=headers, reason=reason)
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._transport.close()  # it was answered already, and then broke the protocol
            return
        self._transport.write(self._http.send(head) or b"")
        if answer.body:
            self._transport.write(self._http.send(h11.Data(data=answer.body)) or b"")
        self._transport.write(self._http.send(h11.EndOfMessage()) or b"")
        if close or h11.MUST_CLOSE in (self._http.our_state, self._http.their_state):
            self._transport.close()  # after what was written
        else:
            self._http.start_next_cycle()

    def close(self) -> None:
        """At the end; what was written is still sent."""
        self._transport.close()


class HttpServer:
    """Serves `answer_request(method, target, body)` at a listener from `start` to `close`."""

    def __init__(self, answer_request: AnswerRequest) -> None:
        self.answer_request = answer_request
        self.connections: set[_Connection] = set()
        self.is_closing = False
        self._listening: asyncio.Server | None = None

    async def start(self, listener: Listener) -> None:
        """Answer who connects. The listener stays the caller's."""
        loop = asyncio.get_running_loop()
        # in two steps, so that there is something to close if the second one is cancelled
        self._listening = await loop.create_unix_server(
            lambda: _Connection(self), sock=listener.sock, backlog=BACKLOG, start_serving=False
        )
        await self._listening.start_serving()

    async def start_on(self, sock: socket.socket) -> None:
        """The same for a TCP socket that listens."""
        self._listening = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=sock)

    async def close(self) -> None:
        """Take no more connections; send the answers that are being made; close."""
        self.is_closing = True
        if self._listening is not None:
            self._listening.close()
        if tasks := [connection.task for connection in self.connections if connection.task is not None]:
            await asyncio.wait(tasks, timeout=CLOSE_DEADLINE_S)
        for connection in list(self.connections):
            connection.close()
