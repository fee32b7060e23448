"""Requests and their answers on one connection to an agent, from hello to hanging up."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence

from vhostfs.agent import protocol
from vhostfs.agent.connection import Connection
from vhostfs.agent.protocol import (
    CloseBlob,
    Hello,
    OpenBlob,
    Opened,
    ProtocolError,
    Refused,
    Reply,
    Request,
    Welcome,
)
from virtqueue.fd import Fd

#: of calls, and of what workers name otherwise; never used twice in a process
numbers = itertools.count(1)


class AgentError(Exception):
    """The agent refused, or there is none; the text says why."""


class Lost(Exception):
    """The agent went away before it answered."""


class Exchange:
    """Takes over `sock`. `gone` is set when the agent is."""

    def __init__(self, sock: socket.socket) -> None:
        self.gone = asyncio.Event()
        self._answers: dict[int, asyncio.Future[tuple[Reply, list[Fd]]]] = {}
        self._abandoned: dict[int, int] = {}
        self._connection = Connection(sock, self._on_message, self._on_close)

    async def ask(self, message: Request, fds: Sequence[int] = ()) -> tuple[Reply, list[Fd]]:
        """Send a request, and await its answer; the descriptors that come with it are the caller's.

        Raises AgentError for a refusal, Lost. A blob whose opening is cancelled is closed.
        """
        if self.gone.is_set():
            raise Lost
        try:
            data = protocol.encode(message)
        except ValueError as error:
            raise AgentError(str(error)) from None
        answer: asyncio.Future[tuple[Reply, list[Fd]]] = asyncio.get_running_loop().create_future()
        call = 0 if isinstance(message, Hello) else message.call
        self._answers[call] = answer
        self._connection.send(data, fds)
        try:
            reply, received = await answer
        except asyncio.CancelledError:
            if isinstance(message, OpenBlob):
                self._abandoned[call] = message.handle
            raise
        finally:
            self._answers.pop(call, None)
        if isinstance(reply, Refused):
            raise AgentError(reply.reason)
        return reply, received

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
        self._on_close()

    def _on_message(self, data: bytes, fds: list[Fd]) -> None:
        try:
            reply = protocol.decode_reply(data, len(fds))
        except ProtocolError:
            self.close()
            return
        call = 0 if isinstance(reply, Welcome) else reply.call
        answer = self._answers.get(call)
        if answer is not None and not answer.done():
            answer.set_result((reply, [Fd(fd.take()) for fd in fds]))
        elif (handle := self._abandoned.pop(call, None)) is not None and isinstance(reply, Opened):
            self._connection.send(protocol.encode(CloseBlob(next(numbers), handle)))

    def _on_close(self) -> None:
        self.gone.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Lost())
