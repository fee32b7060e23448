"""The registry back-end by its configuration: mirrors, Dragonfly, redirects, settings at run time."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rafs.backend.config import Mirror, Proxy, Registry, backend_of
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from rafs.backend.registry import RegistryBackend
from rafs.errors import BackendConfigError, BlobAuthError, BlobNetworkError, BlobNotFound
from rafs.metered import MeteredBackend
from rafs.secret import Secret
from tests.fakes.accounts import BASIC, REPOSITORY
from tests.fakes.certificates import certified
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.registry import FakeRegistry, Storage

CONTENT = bytes(range(256)) * 40
BLOB_ID = hashlib.sha256(CONTENT).hexdigest()


@asynccontextmanager
async def backend_for(registry: FakeRegistry, **fields: object) -> AsyncIterator[RegistryBackend]:
    chosen = {
        "scheme": "https" if registry.tls else "http",
        "host": registry.host,
        "repo": REPOSITORY,
    } | fields
    pool = HttpPool()
    backend = make_backend(backend_of("registry", Registry(**chosen)), pool)  # type: ignore[arg-type]
    assert isinstance(backend, RegistryBackend)
    try:
        yield backend
    finally:
        await backend.close()
        await pool.close()


async def check(backend: RegistryBackend, offset: int = 5) -> None:
    assert await backend.read_range(BLOB_ID, offset, 10) == CONTENT[offset : offset + 10]


async def test_blobs_by_their_ids() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, backend_for(registry) as backend:
        assert await backend.blob_size(BLOB_ID) == len(CONTENT)
        await check(backend)
        assert await backend.read_range(BLOB_ID, 5, 0) == b""
        with pytest.raises(BlobNotFound, match=f"^blob {'ab' * 32}: 7 bytes at offset 3: {registry.host}: "):
            await backend.read_range("ab" * 32, 3, 7)
        for blob_id in ("short", "../" + BLOB_ID, BLOB_ID.upper()):
            with pytest.raises(BlobNotFound, match="its id is no SHA-256"):
                await backend.read_range(blob_id, 0, 1)


@pytest.mark.parametrize("host", ["", "reg/x", "https://reg", "a@reg", "reg:port"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(BackendConfigError, match=r"^registry\.host: "):
        RegistryBackend(HttpPool(), Registry(host=host, repo="r"))


async def test_where_redirects_lead_can_be_changed() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, Storage({BLOB_ID: CONTENT}) as storage:
        registry.storage = "https://storage.invalid"
        async with backend_for(
            registry, blob_url_scheme="http", blob_redirected_host=storage.host
        ) as backend:
            await check(backend)
            assert len(storage.requests) == 1


# settings at run time


async def test_new_credentials_at_run_time() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, backend_for(registry) as backend:
        registry.login = "bearer"
        metered = MeteredBackend(backend)
        with pytest.raises(BlobAuthError):
            await check(backend)
        metered.set({"registry_auth": BASIC, "dragonfly_scheduler_endpoint": "http://nobody"})
        await check(backend)
        registry.password = "rotated"
        registry.valid_tokens.clear()
        with pytest.raises(BlobAuthError, match="registry_auth, set by the API"):
            await check(backend)
        metered.set({"registry_auth": "c29tZWJvZHk6cm90YXRlZA=="})
        await check(backend)
        metered.set({"registry_auth": ""})
        registry.valid_tokens.clear()
        with pytest.raises(BlobAuthError, match="without credentials"):
            await check(backend)


async def test_another_proxy_at_run_time() -> None:
    async with (
        FakeRegistry({BLOB_ID: CONTENT}) as registry,
        ForwardProxy() as first,
        ForwardProxy() as second,
        backend_for(registry, proxy=Proxy(url=Secret(first.url))) as backend,
    ):
        await check(backend)
        assert (len(first.requests), len(second.requests)) == (1, 0)
        backend.set({"proxy_url": second.url})
        await check(backend)
        assert (len(first.requests), len(second.requests)) == (1, 1)
        with pytest.raises(BackendConfigError, match=r"proxy\.url"):
            backend.set({"proxy_url": "nonsense", "registry_auth": "x"})
        await check(backend)
        backend.set({"proxy_url": ""})
        await check(backend)
        assert (len(first.requests), len(second.requests)) == (2, 2)


# Dragonfly


async def test_dfdaemon_as_a_proxy_that_sees_what_is_asked(tmp_path: Path) -> None:
    """use_http: the registry has TLS, and it is the proxy that speaks it; storage is asked through it too."""
    authority = certified("an authority")
    authority.write(tmp_path, "ca")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certified("a registry", authority).write(tmp_path, "server"))
    registry = FakeRegistry({BLOB_ID: CONTENT})
    registry.tls, registry.login = tls, "basic"
    async with registry, Storage({BLOB_ID: CONTENT}) as storage:
        registry.storage = storage.url
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        async with ForwardProxy(tls=context, tls_ports={registry.port}) as dfdaemon:
            proxy = Proxy(url=Secret(dfdaemon.url), use_http=True)
            async with backend_for(
                registry,
                proxy=proxy,
                auth=Secret(BASIC),
                ca_cert_files=[str(tmp_path / "ca.crt")],
                timeout=1,
                connect_timeout=1,
            ) as backend:
                await check(backend)
                lines = [line for line, _ in dfdaemon.requests]
                url = f"GET http://{registry.host}/v2/{REPOSITORY}/blobs/sha256:{BLOB_ID} HTTP/1.1"
                assert lines[:2] == [url, url]
                assert lines[2].startswith(f"GET {storage.url}/{BLOB_ID}?signature=")
                assert "Authorization" in dfdaemon.requests[1][1]
                assert "Authorization" not in dfdaemon.requests[2][1]
                dfdaemon.refuse = True
                await check(backend, 7)  # falls back to the registry itself
                await dfdaemon.__aexit__(None, None, None)
                await check(backend, 9)
                assert len(registry.requests) > 3


async def test_a_proxy_without_fallback_is_the_only_way() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, ForwardProxy(refuse=True) as dfdaemon:
        proxy = Proxy(url=Secret(dfdaemon.url), fallback=False)
        async with backend_for(registry, proxy=proxy) as backend:
            with pytest.raises(
                BlobNetworkError, match=f"through proxy 127.0.0.1:{dfdaemon.port}: answers 503"
            ):
                await check(backend)
            assert registry.requests == []
            dfdaemon.refuse = False
            await check(backend)


async def test_dfdaemon_as_a_mirror() -> None:
    """It is told by a header whose mirror it is, asks for a login as the registry does, and may go away."""
    headers = {"X-Dragonfly-Registry": Secret("https://index.docker.io")}
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, FakeRegistry({BLOB_ID: CONTENT}) as dfdaemon:
        dfdaemon.login = registry.login = "bearer"
        mirror = Mirror(host=dfdaemon.url, headers=headers)
        async with backend_for(registry, mirrors=[mirror], auth=Secret(BASIC)) as backend:
            await check(backend)
            blobs = [seen for seen in dfdaemon.requests if "/blobs/" in seen.path]
            assert [seen.headers["X-Dragonfly-Registry"] for seen in blobs] == ["https://index.docker.io"] * 2
            assert registry.requests == []
            await dfdaemon.stop()
            await check(backend)
            assert registry.requests and "X-Dragonfly-Registry" not in registry.requests[0].headers
