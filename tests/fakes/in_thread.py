"""A fake server for tests that do not run on an event loop: in a thread, with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.registry import HttpServer

#: for the server to begin, and to end
PATIENCE_S = 10


@contextmanager
def in_thread(server: HttpServer) -> Iterator[None]:
    """Serve for the time of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(PATIENCE_S)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
