"""A connection over a socket pair: partial writes, cancelled reads, and who closes what."""

import array
import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from virtqueue.errors import ProtocolError
from virtqueue.messages import Request, VringFd, pack_request
from virtqueue.transport import Connection


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    connection = Connection(ours)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_a_write_larger_than_the_buffer_arrives_whole(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    data = os.urandom(3 << 20)

    def read_all() -> bytes:
        received = b""
        while len(received) < len(data):
            received += peer.recv(100_000)
        return received

    async def main() -> None:
        reading = asyncio.create_task(asyncio.to_thread(read_all))
        await connection.send(data)
        assert await reading == data

    asyncio.run(main())


def test_a_cancelled_write_ends(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.send(bytes(8 << 20))

    asyncio.run(main())


def test_a_cancelled_read_loses_neither_bytes_nor_descriptors(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, peer = pair
    wire = pack_request(Request.SET_VRING_KICK, VringFd(0, True))
    fd = os.eventfd(0, os.EFD_CLOEXEC)

    async def main() -> None:
        peer.sendmsg([wire[:5]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.receive()
        peer.sendall(wire[5:])
        message = await connection.receive()
        assert message is not None
        with message:
            assert (message.body, len(message.fds)) == (VringFd(0, True), 1)
            received = message.fds[0].fileno()
            assert not os.get_inheritable(received)
            os.eventfd_write(received, 3)
        assert os.eventfd_read(fd) == 3
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(received)

    asyncio.run(main())
    os.close(fd)


def test_the_end_between_messages_and_in_the_middle_of_one(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair

    async def main() -> None:
        assert not connection.peer_gone
        peer.sendall(pack_request(Request.GET_FEATURES))
        peer.shutdown(socket.SHUT_WR)
        assert await connection.receive() is not None
        assert await connection.receive() is None
        assert connection.peer_gone

    asyncio.run(main())
    ours, theirs = socket.socketpair()
    cut = Connection(ours)
    theirs.sendall(pack_request(Request.SET_FEATURES, 1)[:13])
    theirs.close()
    with pytest.raises(ProtocolError, match="vanished in the middle"):
        asyncio.run(cut.receive())
    cut.close()
    assert cut.peer_gone
