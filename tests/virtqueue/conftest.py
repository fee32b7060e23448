"""Fixtures of the tests that serve over a real socket."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.virtqueue.serving import Run, T


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Both event loops: the daemon has uvloop, the standard one is stricter in debug mode."""

    def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(debug=True, loop_factory=request.param) as runner:
            return runner.run(coroutine)

    return run_coroutine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vhost.sock"
