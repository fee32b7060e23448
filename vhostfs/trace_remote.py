"""`vhostfs trace push` and `pull`: from the name of an image to its registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rafs.backend.http import HttpPool
from rafs.registry.client import RegistryClient
from rafs.registry.reference import Reference, default_scheme
from rafs.trace.format import Trace
from rafs.trace.merge import merge_traces
from rafs.trace.registry import pull_traces, push_trace

T = TypeVar("T")


def push(image: str, trace: Trace) -> str:
    """Push beside an image; return the artifact's digest. Raises BuildError, BlobUnavailable, TraceError."""

    async def work(client: RegistryClient, target: str) -> str:
        return (await push_trace(client, target, trace)).digest

    return asyncio.run(_at_registry(image, work))


def pull(image: str, *, merge: bool) -> Trace:
    """The newest trace beside an image, or all of them merged. Raises as `push` does."""

    async def work(client: RegistryClient, target: str) -> Trace:
        if merge:
            return merge_traces((await pull_traces(client, target))[::-1])
        return (await pull_traces(client, target, limit=1))[0]

    return asyncio.run(_at_registry(image, work))


async def _at_registry(image: str, work: Callable[[RegistryClient, str], Awaitable[T]]) -> T:
    reference = Reference.parse(image.removeprefix("docker://"))
    pool, host = HttpPool(), reference.registry_host
    client = RegistryClient(pool, host, reference.repository, scheme=default_scheme(host))
    try:
        return await work(client, reference.target)
    finally:
        client.close()
        await pool.close()
