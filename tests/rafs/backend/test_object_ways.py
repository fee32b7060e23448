"""The ways to an object store: what is spoiled on them, mirrors, proxies, TLS with a CA of one's own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rafs.errors import (
    BackendConfigError,
    BlobAuthError,
    BlobCorrupt,
    BlobNetworkError,
    BlobNotFound,
    BlobUnavailable,
)
from tests.fakes.blob_readers import BLOB_ID, CONTENT, backend_and_pool_of, backend_of, check_reads
from tests.fakes.certificates import certified
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
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.s3_server import DOMAIN, S3Server, section_of


@pytest.fixture(autouse=True)
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall takes its second each time."""
    monkeypatch.setattr("rafs.backend.mirrors.RETRIES", 1)


@asynccontextmanager
async def with_tls(port: int, folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """A way by TLS to a local port: (its host and port, the file of its CA)."""
    authority = certified("a CA")
    ca_file, _ = authority.write(folder, "ca")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certified("localhost", authority).write(folder, "server"))
    transports: list[asyncio.WriteTransport] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        transports.extend((writer.transport, behind_writer.transport))
        both = [
            asyncio.create_task(pump(reader, behind_writer)),
            asyncio.create_task(pump(behind_reader, writer)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        writer.transport.abort()
        behind_writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", ca_file
    finally:
        server.close()
        for transport in transports:
            transport.abort()
        await server.wait_closed()


#: fault, error when it stays, words in it; whether another try may help
FAULTS: list[tuple[Fault, type[BlobUnavailable], str, bool]] = [
    (Status(401), BlobAuthError, "refuses us", False),
    (Status(403), BlobAuthError, "refuses us", False),
    (Status(404), BlobNotFound, "has no such blob", False),
    (Status(416), BlobCorrupt, "answers 416", False),
    (Status(429), BlobNetworkError, "answers 429", True),
    (Status(500), BlobNetworkError, "answers 500", True),
    (Reset(), BlobNetworkError, "the connection broke|ended too early", True),
    (Reset(0), BlobNetworkError, "the connection broke", True),
    (Truncated(), BlobNetworkError, "ended too early|the connection broke", True),
    (Short(), BlobCorrupt, r"sends \d+ bytes", True),
    (TooLong(), BlobCorrupt, "without the headers", True),
    (Stalled(), BlobNetworkError, "no answer in time", True),
    (Stalled(0), BlobNetworkError, "no answer in time", True),
    (WholeBody(), BlobCorrupt, "sends the whole blob", True),
    (WebPage(), BlobCorrupt, "sends the whole blob|headers", True),
    (WrongRange(), BlobCorrupt, "another range|Content-Range", True),
    (NoHttp(), BlobNetworkError, "no HTTP|the request failed", True),
]


@pytest.mark.parametrize(
    ("fault", "error", "words", "passes"),
    FAULTS,
    ids=lambda value: repr(value) if isinstance(value, Fault) else "",
)
async def test_faults(
    s3: S3Server, fault: Fault, error: type[BlobUnavailable], words: str, passes: bool
) -> None:
    async with (
        FaultProxy(f"http://{s3.host}") as proxy,
        backend_of("s3", section_of(s3, endpoint=proxy.host, timeout=1)) as backend,
    ):
        if passes:
            proxy.plan = every(2, fault)
            for offset in (0, 1000):
                assert await backend.read_range(BLOB_ID, offset, 1000) == CONTENT[offset:][:1000]
        proxy.plan = every(1, fault)
        with pytest.raises(error, match=words) as caught:
            await backend.read_range(BLOB_ID, 5, 999)
        assert type(caught.value) is error
        assert str(caught.value).startswith(f"blob {BLOB_ID}: 999 bytes at offset 5 in bucket 'bucket': ")
        assert proxy.counters[type(fault).__name__] >= (2 if passes else 1)


async def test_mirrors_and_the_store_itself(s3: S3Server) -> None:
    async with FaultProxy(f"http://{s3.host}") as mirror:
        ping = {"ping_url": f"{mirror.url}/healthcheck"}
        mirrors = [{"host": "http://127.0.0.1:1"}, {"host": mirror.url, "headers": {"X-Token": "t"}, **ping}]
        async with backend_and_pool_of("s3", section_of(s3, mirrors=mirrors)) as (backend, pool):
            assert await backend.read_range(BLOB_ID, 7, 9) == CONTENT[7:16]
            assert mirror.counters["answers"] >= 1
            mirror.plan = every(1, Status(500))
            assert await backend.read_range(BLOB_ID, 7, 9) == CONTENT[7:16]
            assert mirror.counters["Status"] == 1
            assert pool.counters["retries"] == 0
            mirror.plan = None
            await check_reads(backend)


async def test_the_proxy_of_a_bucket_in_a_host_name(s3: S3Server) -> None:
    """OSS knows no other buckets; by the proxy such a host can be had here."""
    async with ForwardProxy(only_port=s3.port) as proxy:
        keys = {"access_key_id": s3.access_key, "access_key_secret": s3.secret_key}
        section = {"endpoint": DOMAIN.removeprefix("s3."), "bucket_name": "bucket"}
        way = {"url": proxy.url, "fallback": False, "use_http": True}
        async with backend_of("oss", {**section, **keys, "scheme": "http", "proxy": way}) as backend:
            await check_reads(backend)
        assert f"GET http://bucket.{DOMAIN}/{BLOB_ID} HTTP/1.1" in {line for line, _ in proxy.requests}


async def test_a_proxy_that_is_gone_and_one_without_which_it_must_not_be(s3: S3Server) -> None:
    for fallback in (True, False):
        section = section_of(s3, proxy={"url": "http://127.0.0.1:1", "fallback": fallback})
        async with backend_of("s3", section) as backend:
            if fallback:
                await check_reads(backend)
            else:
                with pytest.raises(BlobNetworkError, match=r"through proxy 127\.0\.0\.1:1: no connection"):
                    await backend.read_range(BLOB_ID, 0, 1)


async def test_certificates(s3: S3Server, tmp_path: Path) -> None:
    async with with_tls(s3.port, tmp_path) as (host, ca_file):
        section: dict[str, Any] = section_of(s3, scheme="https", endpoint=host)
        for trusted in ({"ca_cert_files": [str(ca_file)]}, {"skip_verify": True}):
            async with backend_of("s3", {**section, **trusted}) as backend:
                await check_reads(backend)
        async with backend_of("s3", section) as backend:
            with pytest.raises(BlobNetworkError, match=f"{host}: its certificate is not trusted"):
                await backend.read_range(BLOB_ID, 0, 1)
    (tmp_path / "empty").write_text("no certificate")
    for name, reason in (("none", "cannot read .*none: No such file"), ("empty", "no certificate in PEM")):
        with pytest.raises(BackendConfigError, match=f"ca_cert_files: .*{reason}"):
            async with backend_of("s3", {**section, "ca_cert_files": [str(tmp_path / name)]}):
                pass


async def test_a_slow_drip_ends(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rafs.backend.object_config.REQUEST_TIMEOUT_S", 1)
    async with (
        FaultProxy(f"http://{s3.host}") as proxy,
        backend_of("s3", section_of(s3, endpoint=proxy.host, timeout=1)) as backend,
    ):
        proxy.plan = every(1, Drip(0.05))
        with pytest.raises(BlobNetworkError, match="no answer in time"):
            await backend.read_range(BLOB_ID, 0, 100_000)


async def test_readers_that_go_leave_nothing_behind(s3: S3Server) -> None:
    async with (
        FaultProxy(f"http://{s3.host}") as proxy,
        backend_of("s3", section_of(s3, endpoint=proxy.host, timeout=60)) as backend,
    ):
        proxy.plan = every(1, Stalled())
        reads = [asyncio.create_task(backend.read_range(BLOB_ID, 0, 100_000)) for _ in range(40)]
        while proxy.counters["Stalled"] < 32:  # so many at a time; the others wait for their turn
            await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        assert all(read.cancelled() for read in reads)
        proxy.plan = None
        parts = await asyncio.gather(*(backend.read_range(BLOB_ID, at, 1000) for at in range(64)))
        assert parts == [CONTENT[at : at + 1000] for at in range(64)]
