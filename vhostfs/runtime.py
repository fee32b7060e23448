"""What every daemon of ours shares: its event loop, the signals that end it, and an end that is on time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Whoever sends SIGTERM expects the end within a second.
STOP_DEADLINE_S = 0.9


class StartError(Exception):
    """The daemon cannot begin; the text says what to mend."""


class Stoppable(Protocol):
    """A daemon that is ready: `run` serves until `stop`."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...


def serve_until_signal(
    make: Callable[[], AbstractAsyncContextManager[Stoppable]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    late_status: int = 1,
) -> None:
    """Run a daemon until it ends, or SIGTERM or SIGINT ends it. Raises what making it raises (StartError).

    `loop_factory`: asyncio's own when it is None.
    What does not stop in STOP_DEADLINE_S is left behind: the process then ends with `late_status`.
    """
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(make, late_status))


async def _serve(make: Callable[[], AbstractAsyncContextManager[Stoppable]], late_status: int) -> None:
    starting = asyncio.current_task()
    assert starting is not None
    signalled = False

    def on_early_signal() -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            give_up_after(STOP_DEADLINE_S, late_status)
            starting.cancel()

    _on_signal(on_early_signal)
    try:
        async with make() as daemon:
            _on_signal(daemon.stop)
            await daemon.run()
            log.info("stopping")
            give_up_after(STOP_DEADLINE_S, late_status)
    except asyncio.CancelledError:
        if not signalled:
            raise


def _on_signal(react: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, react)


def give_up_after(seconds: float, status: int) -> None:
    """End the process, whatever it waits for, unless it has ended by then. The cache bears that."""

    def give_up() -> None:
        log.error("not stopped after %s s (a disk that does not answer?): giving up", seconds)
        os._exit(status)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the body; cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def run_to_end(executor: Executor | None, function: Callable[[], T]) -> T:
    """run_in_executor that never returns before the thread is done, not even when it is cancelled.

    The caller would otherwise close descriptors, and use the device, that the thread is still using.
    """
    return await to_end(asyncio.get_running_loop().run_in_executor(executor, function))


async def to_end(work: Awaitable[T]) -> T:
    """Await `work`. Whoever is cancelled meanwhile is told so only when it is done."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue  # told twice; the work is no faster for it
        future.exception()  # seen: the caller is told of its cancellation, not of this
        raise


def os_error_text(error: OSError) -> str:
    """The file, if one is known, and what is the matter with it."""
    where = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    return f"{where}: {error.strerror or error}" if where else str(error.strerror or error)
