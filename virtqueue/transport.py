"""``Connection``: vhost-user messages over a Unix stream socket, with descriptors as SCM_RIGHTS. asyncio.

This file and ``server.py`` are the only ones that do IO for the back-end. Reads ask for what the parser wants
and no more, so descriptors cannot land in the wrong message; writes may be partial. Descriptors go from the
kernel to the parser without an await between, and from there into a message, so a cancelled task leaks none.
"""

import array
import asyncio
import contextlib
import select
import socket
from collections.abc import Callable

from virtqueue.errors import ProtocolError
from virtqueue.fd import Fd
from virtqueue.messages import MAX_FDS, Message
from virtqueue.parser import Parser

_FD_BYTES = array.array("i").itemsize
_ANCILLARY_SIZE = socket.CMSG_SPACE(MAX_FDS * _FD_BYTES)


async def wait_readable(sock: socket.socket) -> None:
    """Return once a read, or an accept, on a non-blocking socket would not block."""
    loop = asyncio.get_running_loop()
    await _wait(loop.add_reader, loop.remove_reader, sock)


async def wait_writable(sock: socket.socket) -> None:
    """Return once a write on a non-blocking socket would not block."""
    loop = asyncio.get_running_loop()
    await _wait(loop.add_writer, loop.remove_writer, sock)


async def _wait(add: Callable[..., object], remove: Callable[..., object], sock: socket.socket) -> None:
    ready = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    add(sock.fileno(), wake)
    try:
        await ready
    finally:
        remove(sock.fileno())


class Connection:
    """One front-end's socket; owned here. One task reads and writes it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._parser = Parser()

    async def receive(self) -> Message | None:
        """The next message (the caller's to close), or None when the peer has closed between two messages.

        ProtocolError: what came is no message, or the peer vanished in the middle of one. OSError: the socket
        failed, which is another way to vanish.
        """
        while (message := self._parser.next_message()) is None:
            try:
                data, fds = self._receive_nowait()
            except BlockingIOError:
                await wait_readable(self._sock)
                continue
            self._parser.feed(data, fds)
            if not data:
                if self._parser.mid_message:
                    raise ProtocolError("the front-end vanished in the middle of a message")
                return None
        return message

    def _receive_nowait(self) -> tuple[bytes, list[Fd]]:
        data, ancillary, flags, _ = self._sock.recvmsg(
            self._parser.wanted, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
        )
        numbers = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(content[: len(content) - len(content) % _FD_BYTES])
        fds = [Fd(number) for number in numbers]
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                fd.close()
            raise ProtocolError(
                f"file descriptors were lost: more than {MAX_FDS} came with one message, or this process "
                f"has reached its limit of open files (ulimit -n)"
            )
        return data, fds

    async def send(self, data: bytes) -> None:
        """Send all of ``data``. OSError when the peer is gone."""
        view = memoryview(data)
        while view:
            try:
                sent = self._sock.send(view, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                await wait_writable(self._sock)
            else:
                view = view[sent:]

    @property
    def peer_gone(self) -> bool:
        """True when the peer has closed its end, or this end is closed; does not block."""
        if self._sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the socket, and every descriptor that came and is in no message."""
        self._parser.close()
        with contextlib.suppress(OSError):  # ECONNRESET may be told here, and there is nobody left to care
            self._sock.close()
