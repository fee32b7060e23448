"""``Server``: serves one front-end after the other: bytes -> session -> device -> reply. asyncio.

One front-end at a time. While one is there, a second connection is closed with a line in the log, so that a
VMM started by mistake fails at once and does not hang. When the first has hung up already and is only being
cleared away, the second waits for that: it is the VMM that comes back.
A front-end that breaks the protocol, or a fault of ours, costs that connection; the server goes on.
"""

import asyncio
import errno
import logging
import socket
from typing import Protocol

from virtqueue.errors import ProtocolError, RequestRefused
from virtqueue.events import Event
from virtqueue.listener import Listener
from virtqueue.messages import Message
from virtqueue.offer import Offer
from virtqueue.session import Session
from virtqueue.transport import Connection, wait_readable

log = logging.getLogger(__name__)

# Out of descriptors or memory, or a connection that was gone before we took it: errors that pass. The
# listener may stay readable meanwhile, so there is a pause before the next attempt.
PASSING_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
ACCEPT_RETRY_S = 0.2


class Device(Protocol):
    """The device behind a session. Calls come one at a time, each awaited before the next."""

    async def apply(self, event: Event) -> int | None:
        """Make the event true. RequestRefused when it cannot be.

        Returns the next available index for ``VringStopRequested``, None for every other event. When
        cancelled it must not return before it has stopped using the event's descriptors. A device that
        refuses ``MemTableSet`` is left without guest memory; any other refusal changes nothing.
        """

    async def reset(self) -> None:
        """The front-end is gone: stop every vring, unmap guest memory, close what was taken."""


class Server:
    """Front-ends of ``listener`` get the device; ``offer`` says what it is. ``serve`` may be called once."""

    def __init__(self, listener: Listener, offer: Offer, device: Device) -> None:
        self._listener = listener
        self._offer = offer
        self._device = device

    async def serve(self) -> None:
        """Serve until cancelled; the front-end of the moment then loses its connection."""
        connection: Connection | None = None
        task: asyncio.Task[None] | None = None
        try:
            while True:
                sock = await self._accept()
                if task is not None and not task.done() and connection is not None:
                    if not connection.peer_gone:
                        log.warning("closed a second connection: this device already has a front-end")
                        sock.close()
                        continue
                    try:
                        await asyncio.wait([task])
                    except BaseException:
                        sock.close()
                        raise
                connection = Connection(sock)
                task = asyncio.create_task(serve_frontend(connection, self._offer, self._device))
        finally:
            if task is not None and connection is not None:
                task.cancel()
                try:
                    await asyncio.wait([task])
                finally:
                    connection.close()  # a task that is cancelled before it ran has not done so

    async def _accept(self) -> socket.socket:
        while True:
            try:
                return self._listener.sock.accept()[0]
            except BlockingIOError:
                await wait_readable(self._listener.sock)
            except OSError as error:
                if error.errno not in PASSING_ERRORS:
                    raise
                log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_S)


async def serve_frontend(connection: Connection, offer: Offer, device: Device) -> None:
    """Serve one front-end until it goes, then reset the device. Owns the connection. Logs, never raises."""
    log.info("front-end connected")
    session = Session(offer)
    try:
        while (message := await connection.receive()) is not None:
            with message:
                reply = await answer(session, device, message)
            if reply:
                await connection.send(reply)
        log.info("front-end disconnected")
    except ProtocolError as error:
        log.warning("front-end disconnected by us: %s", error)
    except OSError as error:
        log.info("front-end vanished: %s", error)
    except Exception:
        log.exception("front-end disconnected by us: internal error")
    finally:
        connection.close()
        try:
            await device.reset()
        except Exception:
            log.exception("the device could not be reset")


async def answer(session: Session, device: Device, message: Message) -> bytes:
    """Take one message through session and device. The reply's bytes, or empty; ProtocolError."""
    decision = None
    log.debug("%s %s%s", message.name, message.body, " need_reply" if message.need_reply else "")
    try:
        decision = session.receive(message)
        result = None if decision.event is None else await device.apply(decision.event)
    except RequestRefused as refusal:
        reply = session.refuse(message, refusal, decision)
        log.warning("refused: %s", refusal)
        return reply
    return session.complete(decision, result)
