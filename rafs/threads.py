"""Work in a thread that is over when the await is, whatever happens to whoever awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_thread(pool: Executor, work: Callable[[], _Result]) -> _Result:
    """Run `work` in `pool`. A cancellation is passed on when the thread is done, which may use our files."""
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        future.exception()  # seen
        raise
