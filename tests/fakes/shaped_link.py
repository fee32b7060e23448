"""A link with a round trip time and a bandwidth, as a TCP port of this machine that leads to another one.

    async with ShapedLink("127.0.0.1", port, rtt_s=0.020, bytes_per_s=100e6 / 8) as link: ... link.port

Each direction has the bandwidth, shared by all connections. To open a connection costs a round trip. As a
process of its own it is no load on who measures: `python -m tests.fakes.shaped_link PORT RTT_MS MBIT` prints
its port, and ends with its standard input; `shaped_link()` runs it so.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

#: taken at a time, so that connections share the link
PIECE = 16 << 10
#: the bytes that a direction of a connection holds beyond those on their way
QUEUE = 128 << 10


class _Direction:
    """One direction of the link: when a piece that is sent now arrives."""

    def __init__(self, delay_s: float, bytes_per_s: float) -> None:
        self._delay_s = delay_s
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self.carried_bytes = 0

    def send(self, length: int, now: float) -> float:
        self._free_at = max(self._free_at, now) + length / self._bytes_per_s
        self.carried_bytes += length
        return self._free_at + self._delay_s


class ShapedLink:
    """See the module. `up` and `down` count bytes, `connections` those that were opened."""

    def __init__(self, host: str, port: int, *, rtt_s: float, bytes_per_s: float) -> None:
        self._target = host, port
        self._rtt_s = rtt_s
        self._window = QUEUE + int(rtt_s * bytes_per_s)
        self.up = _Direction(rtt_s / 2, bytes_per_s)
        self.down = _Direction(rtt_s / 2, bytes_per_s)
        self.connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ShapedLink:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=PIECE, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=PIECE)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far_writer, self.up, first_delay_s=self._rtt_s))
                    group.create_task(self._pump(far_reader, writer, self.down))
            finally:
                far_writer.transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass  # either end has gone
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: _Direction,
        first_delay_s: float = 0.0,
    ) -> None:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(max(2, self._window // PIECE))

        async def deliver() -> None:
            while True:
                arrives, piece = await pieces.get()
                if (delay := arrives - loop.time()) > 0:
                    await asyncio.sleep(delay)
                if not piece:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()

        async with asyncio.TaskGroup() as group:  # who cannot deliver any more ends the reading too
            group.create_task(deliver())
            opened_at = loop.time() + first_delay_s
            while piece := await reader.read(PIECE):
                await pieces.put((direction.send(len(piece), max(loop.time(), opened_at)), piece))
            await pieces.put((direction.send(0, loop.time()), b""))


@contextmanager
def shaped_link(port: int, *, rtt_ms: float, mbit: float) -> Iterator[int]:
    """A process that is such a link to a port of this machine; give its own port."""
    command = [sys.executable, "-m", "tests.fakes.shaped_link", str(port), str(rtt_ms), str(mbit)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


async def _main(port: int, rtt_ms: float, mbit: float) -> None:
    async with ShapedLink("127.0.0.1", port, rtt_s=rtt_ms / 1000, bytes_per_s=mbit * 1e6 / 8) as link:
        print(link.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
