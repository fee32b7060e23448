"""HTTP on a Unix socket: connections, framing, and what is no HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.vhostfs.api.client import Answered, UnixConnection
from vhostfs.api.http import HttpServer
from vhostfs.api.routes import MAX_BODY, Answer
from virtqueue.listener import Listener


class Echo:
    """Answers with what it was asked; "/wait" when `gate` opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0

    async def __call__(self, method: str, target: str, body: bytes) -> Answer:
        if target == "/wait":
            self.waiting += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if method == "DELETE":
            return Answer(204, None)
        return Answer(200, json.dumps({"method": method, "target": target, "size": len(body)}).encode())


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Echo]:
    echo = Echo()
    listener = Listener.bind(str(path), backlog=1024)
    server = HttpServer(echo)
    await server.start(listener)
    try:
        yield echo
    finally:
        await server.close()
        listener.close()


async def exchange(path: Path, data: bytes) -> bytes:
    """Send bytes, return the answer up to the server's closing."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def parts(answer: bytes) -> tuple[bytes, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = dict(line.decode().split(": ", 1) for line in lines)
    return status, headers, body


async def test_headers_and_forms_of_targets(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        for target in ("/a?b=%2F/+", "http://unix/a?b=%2F/+"):
            request = f"GET {target} HTTP/1.1\r\nHost: unix\r\nConnection: close\r\n\r\n".encode()
            status, headers, body = parts(await exchange(tmp_path / "s", request))
            assert status == b"HTTP/1.1 200 OK"
            assert headers["Server"] == "Nydus API"
            assert headers["Content-Type"] == "application/json"
            assert json.loads(body)["target"] == target


async def test_a_204_has_no_body(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        request = b"DELETE /a HTTP/1.1\r\nHost: unix\r\nConnection: close\r\n\r\n"
        status, headers, body = parts(await exchange(tmp_path / "s", request))
        assert status == b"HTTP/1.1 204 No Content" and body == b""
        assert "Content-Length" not in headers and "Transfer-Encoding" not in headers


async def test_an_empty_put_has_no_body(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        request = b"PUT /a HTTP/1.1\r\nHost: unix\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        assert json.loads(parts(await exchange(tmp_path / "s", request))[2])["size"] == 0


async def test_a_client_that_waits_to_be_told_to_go_on(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"POST /a HTTP/1.1\r\nHost: u\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await writer.wait_closed()


async def test_a_large_body_and_one_too_large(tmp_path: Path) -> None:
    def post(size: int) -> Answered:
        with UnixConnection(tmp_path / "s") as connection:
            return connection.call("POST", "/a", "x" * (size - 2))

    async with serving(tmp_path / "s"):
        assert (await asyncio.to_thread(post, MAX_BODY)).body["size"] == MAX_BODY
        refused = await asyncio.to_thread(post, MAX_BODY + 1)
        assert refused.status == 413
        assert refused.body["code"] == "UNDEFINED"


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\0\x01\0", b"GET\r\n\r\n", b"FROB a b c\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_in_json(tmp_path: Path, garbage: bytes) -> None:
    async with serving(tmp_path / "s"):
        status, headers, body = parts(await exchange(tmp_path / "s", garbage))
        assert b" 400 " in status and headers["Server"] == "Nydus API"
        assert set(json.loads(body)) == {"code", "message"}
        # and the server is as well as before
        request = b"GET /a HTTP/1.1\r\nHost: unix\r\nConnection: close\r\n\r\n"
        assert parts(await exchange(tmp_path / "s", request))[0] == b"HTTP/1.1 200 OK"


class TimeTravel(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward; what was to happen until then happens."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def test_idle_connections_are_never_closed(tmp_path: Path) -> None:
    """Contract 4.5: neither before the first request nor after one."""

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"DELETE /a HTTP/1.1\r\nHost: unix\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")

    async def live_on() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, TimeTravel)
        async with serving(tmp_path / "s"):
            silent = await asyncio.open_unix_connection(str(tmp_path / "s"))
            kept = await asyncio.open_unix_connection(str(tmp_path / "s"))
            for _ in range(3):
                await ask(*kept)
                loop.ahead += 365 * 86400
                rung = asyncio.Event()
                loop.call_later(0, rung.set)
                await rung.wait()
            await ask(*kept)
            await ask(*silent)
            for _, writer in (silent, kept):
                writer.close()
                await writer.wait_closed()

    with asyncio.Runner(loop_factory=TimeTravel) as runner:
        runner.run(live_on())


async def test_200_connections_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as echo:
        opened = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(200)]
        for _, writer in opened:
            writer.write(b"GET /wait HTTP/1.1\r\nHost: unix\r\n\r\n")
        while echo.waiting < 200:
            await asyncio.sleep(0)
        # all of them wait; another one is answered meanwhile
        request = b"GET /a HTTP/1.1\r\nHost: unix\r\nConnection: close\r\n\r\n"
        assert parts(await exchange(tmp_path / "s", request))[0] == b"HTTP/1.1 200 OK"
        echo.gate.set()
        for reader, writer in opened:
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
            writer.close()


async def test_who_hangs_up_has_given_up(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as echo:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET /wait HTTP/1.1\r\nHost: unix\r\n\r\n")
        while not echo.waiting:
            await asyncio.sleep(0)
        writer.close()
        while not echo.cancelled:
            await asyncio.sleep(0)


async def test_the_end_sends_what_is_being_answered(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as echo:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET /wait HTTP/1.1\r\nHost: unix\r\n\r\n")
        while not echo.waiting:
            await asyncio.sleep(0)
        echo.gate.set()
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    assert (await reader.read()).endswith(b'"size": 0}')
    writer.close()


async def test_requests_that_are_sent_ahead_are_answered_in_turn(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: unix\r\n\r\n" % number for number in range(20))
        requests += b"GET /last HTTP/1.1\r\nHost: unix\r\nConnection: close\r\n\r\n"
        answers = await exchange(tmp_path / "s", requests)
        targets = [
            json.loads(part.partition(b"\r\n\r\n")[2])["target"]
            for part in answers.split(b"HTTP/1.1 200 OK")[1:]
        ]
        assert targets == [f"/{number}" for number in range(20)] + ["/last"]


async def test_a_flood_of_requests_is_read_as_it_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as echo:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET /wait HTTP/1.1\r\nHost: unix\r\n\r\n")
        flood = 8000
        sending = asyncio.create_task(_flood(writer, flood))
        while not echo.waiting:
            await asyncio.sleep(0)
        echo.gate.set()
        for _ in range(flood + 1):
            assert (await reader.readuntil(b'"size": 0}')).startswith(b"HTTP/1.1 200 OK\r\n")
        await sending
        writer.close()


async def _flood(writer: asyncio.StreamWriter, count: int) -> None:
    for _ in range(count // 1000):
        writer.write(b"GET /a HTTP/1.1\r\nHost: unix\r\n\r\n" * 1000)
        await writer.drain()


async def test_a_chunked_body_is_put_together(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        head = b"PUT /a HTTP/1.1\r\nHost: u\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        answer = await exchange(tmp_path / "s", head + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
        assert json.loads(parts(answer)[2])["size"] == 7


def test_the_start_loads_no_aiohttp() -> None:
    code = "import sys, vhostfs.nydusd.daemon; assert 'aiohttp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
