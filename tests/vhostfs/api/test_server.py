"""The API socket's life: it is there while the API answers, and not a moment longer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from vhostfs.api.server import ApiServer


async def start_and_cancel(path: Path, turns: int) -> bool:
    """Begin to serve, and cancel that after so many turns of the loop; whether it served by then."""
    ready = asyncio.Event()

    async def serve() -> None:
        async with ApiServer(str(path), {}):
            ready.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return ready.is_set()


def test_a_start_that_is_cancelled_at_any_await_leaves_nothing(tmp_path: Path) -> None:
    """On asyncio's own loop, as nydusd has it: a signal may come in any turn."""
    turns = 0
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        while not runner.run(start_and_cancel(tmp_path / "api", turns)):
            assert not list(tmp_path.iterdir())
            turns += 1
    assert not list(tmp_path.iterdir())
    assert turns >= 2  # there was an await on the way
