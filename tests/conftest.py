"""What every test may ask for: the shared fixtures (images that others built) and the shared documents.

They stand outside the repo: where VHOSTFS_SHARED says, or in ../shared beside it.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from pathlib import Path

import pytest
import uvloop

from tests.fakes.registries import docker_registry as docker_registry

REPO = Path(__file__).resolve().parent.parent

# The agents that daemons start in tests end soon after them.
os.environ["VHOSTFS_AGENT_OPTIONS"] = "--idle-timeout 1"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared fixtures, tools and documents; the test fails, not skips, where it is missing."""
    shared = Path(os.environ.get("VHOSTFS_SHARED") or REPO.parent / "shared")
    if not (shared / "fixtures").is_dir():
        pytest.fail(f"no fixtures in {shared}: set VHOSTFS_SHARED to the folder that has them", pytrace=False)
    return shared


@pytest.fixture(scope="session")
def fixtures_dir(shared_dir: Path) -> Path:
    """Images that other builders made: data only."""
    return shared_dir / "fixtures"


#: of a test that is a coroutine function: just under that of all tests (pyproject.toml)
ASYNC_DEADLINE_S = 280.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function, on the daemon's own kind of event loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # pytest-timeout's signal does not wake a loop that has nothing to do
        own = pyfuncitem.get_closest_marker("timeout")
        limit_s = own.args[0] if own is not None else ASYNC_DEADLINE_S
        runner.run(asyncio.wait_for(pyfuncitem.obj(**arguments), limit_s))
    return True
