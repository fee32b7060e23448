"""`vhostfs serve` with faults put in from outside: the daemon's own composition root, other hands.

--delay S: every read of the blob back-end takes S seconds longer, as a far registry would. --stall S: on
SIGUSR1 the interpreter is busy for S seconds without letting go of the GIL, so that no Python code of the
daemon runs, in no thread, nor of its agent, which is in the same process here. Nothing of this is in vhostfs
itself.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from pathlib import Path

import uvloop

from rafs.backend import BlobBackend, LocalBackend
from rafs.backend.config import LocalFs, backend_of
from tests.vhostfs.agent_here import agent_here, no_start
from vhostfs.daemon import Daemon
from vhostfs.options import ServeOptions


class SlowBackend:
    """Another back-end, `delay_s` later."""

    def __init__(self, inner: BlobBackend, delay_s: float) -> None:
        self._inner = inner
        self._delay_s = delay_s

    async def blob_size(self, blob_id: str) -> int:
        return await self._inner.blob_size(blob_id)

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        await asyncio.sleep(self._delay_s)
        return await self._inner.read_range(blob_id, offset, length, again=again)

    async def close(self) -> None:
        await self._inner.close()


def hold_the_gil(seconds: float) -> None:
    """A busy loop that no other thread gets a turn beside: the interpreter switches when asked to after
    an interval, which is put beyond the end of the loop."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(seconds + 60)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    sys.setswitchinterval(interval)


async def serve(options: ServeOptions, blob_dir: Path, delay_s: float, stall_s: float) -> None:
    loop = asyncio.get_running_loop()
    backend = SlowBackend(LocalBackend(blob_dir), delay_s)
    async with agent_here(options.cache_dir, backend), Daemon(options, no_start) as daemon:
        loop.add_signal_handler(signal.SIGTERM, daemon.stop)
        loop.add_signal_handler(signal.SIGUSR1, hold_the_gil, stall_s)
        await daemon.run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faulty", description=__doc__.split("\n")[0])
    for name in ("--bootstrap", "--blob-dir", "--cache-dir", "--statistics"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--num-request-queues", type=int, default=1)
    parser.add_argument("--log-level", default="warning")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S")
    parser.add_argument("--stall", type=float, default=2.0, metavar="S")
    arguments = parser.parse_args()
    logging.basicConfig(level=arguments.log_level.upper())
    options = ServeOptions(
        socket=arguments.socket,
        bootstrap=arguments.bootstrap,
        backend=backend_of("localfs", LocalFs(dir=str(arguments.blob_dir))),
        cache_dir=arguments.cache_dir,
        num_request_queues=arguments.num_request_queues,
        statistics=arguments.statistics,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options, arguments.blob_dir, arguments.delay, arguments.stall))
    return 0


if __name__ == "__main__":
    sys.exit(main())
