"""Many readers while registry, token server and storage misbehave by chance: right bytes or an error, always.

And nothing is left behind: no task, no descriptor.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
from collections import Counter

import pytest
from aiohttp import web

from rafs.backend.config import Mirror, Registry
from rafs.backend.http import HttpPool
from rafs.backend.registry import RegistryBackend
from rafs.errors import BlobUnavailable
from rafs.secret import Secret
from tests.fakes.accounts import BASIC, REPOSITORY
from tests.fakes.fault_proxy import (
    Drip,
    Fault,
    FaultProxy,
    NoHttp,
    Plan,
    Reset,
    Short,
    Stalled,
    Status,
    TooLong,
    Truncated,
    WebPage,
    WholeBody,
    WrongRange,
)
from tests.fakes.registry import FakeRegistry, Storage

CONTENT = random.Random(11).randbytes(400_000)
BLOB_ID = hashlib.sha256(CONTENT).hexdigest()
FAULTS: list[Fault] = [
    Status(401),
    Status(403),
    Status(404),
    Status(410),
    Status(429),
    Status(500),
    Status(503, retry_after="0"),
    Reset(),
    Reset(0),
    Truncated(),
    Short(),
    TooLong(),
    WholeBody(),
    WebPage(),
    WrongRange(),
    NoHttp(),
    Drip(0.01),
    Stalled(),
    Stalled(0),
]


def by_chance(rng: random.Random, share: float) -> Plan:
    def plan(request: web.Request, answer: object) -> Fault | None:
        if rng.random() >= share:
            return None
        # what stalls takes a second: not often
        return rng.choice(FAULTS if rng.random() < 0.1 else FAULTS[:-3])

    return plan


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (no need for paths)


async def soak(seed: int, readers: int, reads: int) -> Counter[str]:
    """`reads` ranges each by `readers` at once; what came of them, by the kind of the error or "right"."""
    rng = random.Random(seed)
    results: Counter[str] = Counter()

    async def spoil_tokens(request: web.Request) -> web.Response | None:
        if rng.random() < 0.7:
            return None
        return rng.choice([web.Response(status=500), web.Response(status=401), web.Response(text="<html>")])

    async with (
        FakeRegistry({BLOB_ID: CONTENT}) as registry,
        FakeRegistry({BLOB_ID: CONTENT}) as mirror,
        Storage({BLOB_ID: CONTENT}) as storage,
        FaultProxy(storage.url) as before_storage,
        FaultProxy(registry.url) as before_registry,
        FaultProxy(mirror.url) as before_mirror,
    ):
        registry.login, registry.token_life_s, registry.token_answer = "bearer", 0.5, spoil_tokens
        registry.storage = before_storage.url
        before_storage.plan = by_chance(rng, 0.2)
        before_registry.spoil = by_chance(rng, 0.05)
        before_mirror.plan = by_chance(rng, 0.5)
        config = Registry(
            scheme="http",
            host=before_registry.host,
            repo=REPOSITORY,
            auth=Secret(BASIC),
            timeout=1,
            connect_timeout=1,
            mirrors=[Mirror(host=before_mirror.url, failure_limit=3, health_check_interval=1)],
        )
        pool = HttpPool()
        backend = RegistryBackend(pool, config)

        async def read_on() -> None:
            for _ in range(reads):
                offset = rng.randrange(len(CONTENT))
                length = rng.randint(1, min(50_000, len(CONTENT) - offset))
                again = rng.random() < 0.1
                try:
                    data = await backend.read_range(BLOB_ID, offset, length, again=again)
                except BlobUnavailable as error:
                    results[error.kind] += 1
                    assert BLOB_ID in str(error) and "signature" not in str(error) and BASIC not in str(error)
                else:
                    assert data == CONTENT[offset : offset + length]
                    results["right"] += 1
                if rng.random() < 0.05:
                    storage.expire()
                    registry.valid_tokens.clear()

        await asyncio.gather(*(read_on() for _ in range(readers)))
        await backend.close()
        await pool.close()
    return results


async def check(seed: int, readers: int, reads: int) -> None:
    before, tasks = descriptors(), len(asyncio.all_tasks())
    results = await soak(seed, readers, reads)
    assert sum(results.values()) == readers * reads
    assert results["right"] > 0.8 * readers * reads, results
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.001)
    gc.collect()
    assert descriptors() <= before + 2


async def test_a_little_of_everything() -> None:
    await check(1, 16, 12)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
async def test_much_of_everything(seed: int) -> None:
    await check(seed, 32, 30)
