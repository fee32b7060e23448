"""Our registry (`vhostfs registry serve`) in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from vhostfs.registry_server.server import Registry
from vhostfs.registry_server.store import Store


@contextmanager
def registry_served(folder: Path, *middlewares: Any) -> Iterator[str]:
    """Serve `folder`; yield host and port. `middlewares` see each request first."""
    loop = asyncio.new_event_loop()
    store = Store(folder)
    registry = Registry(store)
    registry.app.middlewares[:0] = middlewares
    runner = web.AppRunner(registry.app, shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port: int = runner.addresses[0][1]
        return port

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield f"127.0.0.1:{port}"
    finally:
        for end in (runner.cleanup(), loop.shutdown_default_executor()):
            asyncio.run_coroutine_threadsafe(end, loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        store.close()
