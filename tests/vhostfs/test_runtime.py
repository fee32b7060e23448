"""What daemons share: the end of a start, of a run, and of what takes too long."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from vhostfs import runtime
from vhostfs.runtime import StartError, background, os_error_text, run_to_end, serve_until_signal, to_end


class Recorder:
    """A daemon that is signalled by itself, at the moment that `when` names."""

    def __init__(self, when: str) -> None:
        self.when = when
        self.seen: list[str] = []
        self._stopping = asyncio.Event()

    def _reach(self, stage: str) -> None:
        self.seen.append(stage)
        if stage == self.when:
            os.kill(os.getpid(), signal.SIGTERM)

    @asynccontextmanager
    async def make(self) -> AsyncIterator[Recorder]:
        try:
            self._reach("starting")
            if self.when == "starting":
                await asyncio.Event().wait()
            yield self
        finally:
            self._reach("ended")

    async def run(self) -> None:
        self._reach("running")
        await self._stopping.wait()

    def stop(self) -> None:
        self.seen.append("told")
        self._stopping.set()


@pytest.fixture(autouse=True)
def no_deadline(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """The process must live on here: a test that would have ended it finds out by this list."""
    begun: list[tuple[float, int]] = []
    monkeypatch.setattr(runtime, "give_up_after", lambda seconds, status: begun.append((seconds, status)))
    return begun


@pytest.mark.parametrize(
    ("when", "seen"),
    [
        ("starting", ["starting", "ended"]),
        ("running", ["starting", "running", "told", "ended"]),
    ],
)
def test_a_signal_ends_it_in_order(when: str, seen: list[str], no_deadline: list[tuple[float, int]]) -> None:
    daemon = Recorder(when)
    serve_until_signal(daemon.make, late_status=3)
    assert daemon.seen == seen
    assert no_deadline == [(runtime.STOP_DEADLINE_S, 3)]


def test_a_failed_start_is_the_callers() -> None:
    @asynccontextmanager
    async def fails() -> AsyncIterator[Recorder]:
        raise StartError("not today")
        yield

    with pytest.raises(StartError, match="not today"):
        serve_until_signal(fails)


def test_an_end_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ended = threading.Event()
    statuses: list[int] = []

    def leave(status: int) -> None:
        statuses.append(status)
        ended.set()

    monkeypatch.setattr(os, "_exit", leave)
    runtime.give_up_after(0.01, 7)
    assert ended.wait(5) and statuses == [7]


async def test_a_thread_is_waited_for_by_whoever_is_cancelled() -> None:
    entered, gate, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        gate.wait(10)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        task = asyncio.create_task(run_to_end(pool, work))
        await asyncio.to_thread(entered.wait)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done.is_set()


async def test_results_and_errors_come_through() -> None:
    async def fails() -> None:
        raise ValueError("so")

    assert await run_to_end(None, lambda: 7) == 7
    with pytest.raises(ValueError, match="so"):
        await to_end(fails())


async def test_background_work_ends_with_the_block() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with background(work()):
        await asyncio.sleep(0)
    assert cancelled.is_set()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(2, "No such file or directory", "/a"), "/a: No such file or directory"),
        (OSError(2, "No such file or directory", b"/\xff"), "/\ufffd: No such file or directory"),
        (OSError(13, "Permission denied"), "Permission denied"),
        (OSError("only text"), "only text"),
    ],
)
def test_texts_of_errors(error: OSError, text: str) -> None:
    assert os_error_text(error) == text
