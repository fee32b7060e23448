"""Messages over a SOCK_SEQPACKET socket, with descriptors, on the running event loop.

One message is read a turn of the loop, so that who sends without end takes turns with others. What the
other end does not read is kept up to MAX_UNSENT messages; then it is hung up on.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from vhostfs.agent.protocol import MAX_FDS, MAX_MESSAGE
from virtqueue.fd import Fd

MAX_UNSENT = 256
_MSG_CMSG_CLOEXEC = 0x40000000


class Connection:
    """`on_message` gets the bytes of each message, and descriptors that it closes or takes.

    `on_close` is called once, from the loop, when the other end has hung up or was hung up on by us for a
    reason of the socket's; not after `close`.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[bytes, list[Fd]], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_close = on_close
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._loop.add_reader(sock, self._read)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message, now or when the other end reads. The descriptors stay the caller's."""
        if not self._is_open:
            return
        if not self._unsent:
            try:
                self._send_now(data, fds)
                return
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._send_more)
            except OSError:
                self._loop.call_soon(self._hang_up)
                return
        if len(self._unsent) >= MAX_UNSENT:
            self._loop.call_soon(self._hang_up)
            return
        self._unsent.append((data, [os.dup(fd) for fd in fds]))

    def close(self) -> None:
        """Hang up; what was not sent is lost."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        while self._unsent:
            _close_all(self._unsent.popleft()[1])

    def _hang_up(self) -> None:
        if self._is_open:
            self.close()
            self._on_close()

    def _send_now(self, data: bytes, fds: Sequence[int]) -> None:
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        if fds:
            socket.send_fds(self._sock, [data], fds, flags)
        else:
            self._sock.send(data, flags)

    def _send_more(self) -> None:
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                self._send_now(data, fds)
            except BlockingIOError:
                return
            except OSError:
                self._hang_up()
                return
            self._unsent.popleft()
            _close_all(fds)
        self._loop.remove_writer(self._sock)

    def _read(self) -> None:
        try:
            # one byte and one descriptor more than may come, to see what is too much
            data, numbers, flags, _ = socket.recv_fds(
                self._sock, MAX_MESSAGE + 1, MAX_FDS + 1, socket.MSG_DONTWAIT | _MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._hang_up()
            return
        fds = [Fd(number) for number in numbers]
        try:
            if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                self._hang_up()
            else:
                self._on_message(data, fds)
        finally:
            for fd in fds:
                fd.close()


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
