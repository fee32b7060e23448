"""What servers and networks do to an answer: a fault that passes is healed, one that stays is named."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rafs.backend.http import HttpOptions, HttpPool
from rafs.backend.mirrors import Route
from rafs.errors import BlobAuthError, BlobCorrupt, BlobNetworkError, BlobNotFound, BlobUnavailable
from rafs.registry.client import RegistryClient
from tests.fakes.accounts import REPOSITORY
from tests.fakes.fault_proxy import (
    Drip,
    Fault,
    FaultProxy,
    NoHttp,
    Reset,
    Short,
    Stalled,
    Status,
    TooLong,
    Truncated,
    WebPage,
    WholeBody,
    WrongRange,
    every,
)
from tests.fakes.registry import FakeRegistry, Storage

CONTENT = random.Random(5).randbytes(300_000)
BLOB_ID = hashlib.sha256(CONTENT).hexdigest()
DIGEST = f"sha256:{BLOB_ID}"
#: a stall is found out after so long
OPTIONS = HttpOptions(connect_timeout_s=0.5, timeout_s=0.2)

#: fault, error when it stays, words in it
FAULTS: list[tuple[Fault, type[BlobUnavailable], str]] = [
    (Status(429), BlobNetworkError, r"answers 429 Too Many Requests \(INJECTED\)"),
    (Status(500), BlobNetworkError, "answers 500"),
    (Status(503, retry_after="0"), BlobNetworkError, "answers 503"),
    (Reset(), BlobNetworkError, "the connection broke|the body ended"),
    (Reset(0), BlobNetworkError, "the connection broke|closed the connection without an answer"),
    (Truncated(), BlobNetworkError, "the body ended too early"),
    (Short(), BlobCorrupt, "announces 99999 bytes where 100000 were asked for"),
    (TooLong(), BlobCorrupt, "sends more than the 100000 bytes"),
    (TooLong(1 << 20), BlobCorrupt, "sends more than the 100000 bytes"),
    (Stalled(), BlobNetworkError, "stalled after 50000 of 100000 bytes"),
    (Stalled(0), BlobNetworkError, r"no answer within 0\.2 s"),
    (Drip(0.01), BlobNetworkError, r"stalled after \d+ of 100000 bytes"),
    (WholeBody(), BlobCorrupt, "sends the whole blob where a range was asked for"),
    (WebPage(), BlobCorrupt, "answers with a web page"),
    (WrongRange(), BlobCorrupt, "answers with Content-Range 'bytes 7-"),
    (NoHttp(), BlobCorrupt, "no HTTP"),
]
#: those with which a server says its last word: no use to ask it again
VERDICTS: list[tuple[Fault, type[BlobUnavailable], str]] = [
    (Status(401), BlobAuthError, "refuses us and does not say how to log in"),
    (Status(403), BlobAuthError, "answers 403"),
    (Status(404), BlobNotFound, "answers 404"),
    (Status(416), BlobCorrupt, "answers 416"),
    (Status(418), BlobUnavailable, "answers 418"),
]


def named(value: object) -> str | None:
    return repr(value) if isinstance(value, Fault) else None


@asynccontextmanager
async def behind_proxy(registry: FakeRegistry) -> AsyncIterator[tuple[FaultProxy, RegistryClient]]:
    pool = HttpPool()
    async with FaultProxy(registry.url) as proxy:
        client = RegistryClient(pool, proxy.host, REPOSITORY, scheme="http", options=OPTIONS)
        try:
            yield proxy, client
        finally:
            client.close()
            await pool.close()


@pytest.mark.parametrize(("fault", "error", "words"), FAULTS, ids=named)
async def test_a_fault_that_passes_is_healed(fault: Fault, error: type[BlobUnavailable], words: str) -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, behind_proxy(registry) as (proxy, client):
        proxy.plan = every(2, fault)
        offsets = range(0, len(CONTENT), 100_000)
        answers = [await client.blobs.read(DIGEST, offset, 100_000) for offset in offsets]
        assert b"".join(answers) == CONTENT
        assert proxy.counters[type(fault).__name__] == 3


@pytest.mark.parametrize(("fault", "error", "words"), FAULTS + VERDICTS, ids=named)
async def test_a_fault_that_stays_is_named_with_blob_range_and_host(
    fault: Fault, error: type[BlobUnavailable], words: str
) -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, behind_proxy(registry) as (proxy, client):
        proxy.plan = every(1, fault)
        with pytest.raises(error, match=words) as info:
            await client.blobs.read(DIGEST, 100_000, 100_000)
        assert type(info.value) is error
        assert str(info.value).startswith(f"blob {DIGEST}, 100000 bytes at offset 100000: {proxy.host}: ")
        tries = 1 if (fault, error, words) in VERDICTS else 4
        # a connection that was used before and breaks at once is replaced by the client itself
        assert proxy.counters[type(fault).__name__] in (tries, 2 * tries)
        proxy.plan = None
        assert await client.blobs.read(DIGEST, 100_000, 100_000) == CONTENT[100_000:200_000]


@pytest.mark.parametrize(("fault", "error", "words"), FAULTS + VERDICTS, ids=named)
async def test_the_next_mirror_is_asked_at_once(
    fault: Fault, error: type[BlobUnavailable], words: str
) -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, behind_proxy(registry) as (proxy, client):
        proxy.plan = every(1, fault)
        mirror = Route(proxy.url, f"mirror {proxy.host}", is_source=False)
        client.set_routes([mirror, Route(registry.url, registry.host)])
        assert await client.blobs.read(DIGEST, 0, 100_000) == CONTENT[:100_000]
        assert client.pool.counters["retries"] == 0
        assert proxy.counters[type(fault).__name__] in (1, 2)


async def test_retry_after_is_obeyed_by_all_that_ask_the_host() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, behind_proxy(registry) as (proxy, client):
        proxy.plan = every(100, Status(429, retry_after="1"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = asyncio.create_task(client.blobs.read(DIGEST, 0, 10))
        while not proxy.counters["Status"]:
            await asyncio.sleep(0)
        while not client.pool.host(proxy.host).wait_s:
            await asyncio.sleep(0)
        others = [asyncio.create_task(client.blobs.read(DIGEST, at, 10)) for at in range(10)]
        assert (await others[0], await first) == (CONTENT[:10], CONTENT[:10])
        assert loop.time() - began >= 1  # a bound from below: it cannot be fast
        await asyncio.gather(*others)
        assert proxy.counters["answers"] == 12


async def test_a_host_that_wants_too_long_a_pause_is_not_waited_for() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, behind_proxy(registry) as (proxy, client):
        proxy.plan = every(1, Status(503, retry_after="3600"))
        with pytest.raises(BlobNetworkError, match=r"answers 503.*, asks to come back in 3600 s"):
            await client.blobs.read(DIGEST, 0, 10)
        with pytest.raises(BlobNetworkError, match=r"asked to be left alone, for [56]\d\d s more"):
            await client.blobs.read(DIGEST, 0, 10)
        assert proxy.counters["answers"] == 1  # and it is left alone


async def test_a_reader_that_goes_leaves_nothing_behind() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, behind_proxy(registry) as (proxy, client):
        proxy.plan = every(1, Stalled())
        reads = [asyncio.create_task(client.blobs.read(DIGEST, 0, 100_000)) for _ in range(40)]
        while proxy.counters["Stalled"] < 32:  # MAX_CONCURRENT; the others wait for their turn
            await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        proxy.plan = None
        parts = await asyncio.gather(*(client.blobs.read(DIGEST, at, 1000) for at in range(64)))
        assert parts == [CONTENT[at : at + 1000] for at in range(64)]


async def test_signed_urls_that_expire_all_the_time() -> None:
    async with (
        FakeRegistry({BLOB_ID: CONTENT}) as registry,
        Storage({BLOB_ID: CONTENT}) as storage,
        behind_proxy(registry) as (_, client),
    ):
        registry.storage = storage.url
        for offset in range(0, 100_000, 10_000):
            assert await client.blobs.read(DIGEST, offset, 10_000) == CONTENT[offset : offset + 10_000]
            storage.expire()
        assert len(registry.requests) == 10
        assert client.pool.counters["retries"] == 0
