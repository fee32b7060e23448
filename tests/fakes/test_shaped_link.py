"""The shaped link carries bytes as they are, and computes when they arrive."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from tests.fakes.registry import FakeRegistry
from tests.fakes.shaped_link import ShapedLink, _Direction, shaped_link

CONTENT = random.Random(1).randbytes(500_000)


def test_when_a_piece_arrives() -> None:
    link = _Direction(0.010, 1_000_000)
    assert link.send(1000, 5.0) == pytest.approx(5.011)
    assert link.send(1000, 5.0) == pytest.approx(5.012)  # behind the first
    assert link.send(1000, 6.0) == pytest.approx(6.011)  # an idle link saves nothing up
    assert link.carried_bytes == 3000


async def test_bytes_pass_and_take_their_time() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    async with ShapedLink("127.0.0.1", port, rtt_s=0.05, bytes_per_s=10e6) as link:
        began = loop.time()
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(CONTENT)
        writer.write_eof()
        assert await reader.read() == CONTENT
        # from below: opening, there and back, and the bytes twice
        assert loop.time() - began >= 0.05 + 0.05 + 2 * len(CONTENT) / 10e6
        writer.close()
        assert (link.up.carried_bytes, link.down.carried_bytes, link.connections) == (500_000, 500_000, 1)
    server.close()


async def test_a_process_of_its_own() -> None:
    async with FakeRegistry() as registry:
        with shaped_link(registry.port, rtt_ms=1, mbit=1000) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            writer.close()
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
