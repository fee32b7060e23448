"""Lets a test of this folder be an `async def`, on a loop of its own; the data plane's side of a blob."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from native.dataplane import Blob, ChunkStore
from rafs.cache import CachedBlob
from tests.fakes.blobs import FakeBlob

MakeNative = Callable[[CachedBlob, FakeBlob], Blob]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test to its end."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 60))
    return True


@pytest.fixture
def native() -> Iterator[MakeNative]:
    """Makes the data plane's side of a blob that is open."""
    with ExitStack() as stack:

        def make(cache: CachedBlob, fake: FakeBlob) -> Blob:
            store, meta_fd = ChunkStore(), os.memfd_create("meta")
            stack.callback(store.close)
            os.write(meta_fd, fake.meta_file)
            blob = Blob(
                store,
                data_fd=cache.data_fd,
                chunk_map_fd=cache.chunk_map_fd,
                meta_fd=meta_fd,
                chunk_count=cache.record.chunk_count,
                uncompressed_size=cache.record.uncompressed_size,
            )
            stack.callback(blob.close)
            os.close(meta_fd)
            return blob

        yield make
