"""A client of a registry in this process: logging in, manifests, tags, blobs and their redirects."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from rafs.backend.http import HttpOptions, HttpPool
from rafs.backend.mirrors import Route
from rafs.errors import BlobAuthError, BlobCorrupt, BlobNetworkError, BlobNotFound
from rafs.registry.client import RegistryClient
from rafs.registry.credentials import Credentials
from tests.fakes.accounts import BASIC, REPOSITORY
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.registry import FakeRegistry, Storage, ranged

CONTENT = bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
BLOB_ID = DIGEST.removeprefix("sha256:")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FAST = HttpOptions(connect_timeout_s=1, timeout_s=1)


@asynccontextmanager
async def client_of(
    registry: FakeRegistry, auth: str = "", fixed_token: str = ""
) -> AsyncIterator[RegistryClient]:
    pool = HttpPool()
    credentials = Credentials(registry.host, REPOSITORY, auth=auth)
    client = RegistryClient(
        pool,
        registry.host,
        REPOSITORY,
        scheme="http",
        options=FAST,
        credentials=credentials,
        fixed_token=fixed_token,
    )
    try:
        yield client
    finally:
        client.close()
        await pool.close()


@pytest.mark.parametrize("login", ["", "basic", "bearer"])
async def test_blobs_by_ranges(login: str) -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, client_of(registry, BASIC) as client:
        registry.login = login
        assert await client.blobs.size(DIGEST) == len(CONTENT)
        ranges = [(0, 1), (5, 700), (len(CONTENT) - 3, 3), (0, len(CONTENT))]
        answers = await asyncio.gather(*(client.blobs.read(DIGEST, *one) for one in ranges))
        assert answers == [CONTENT[offset : offset + length] for offset, length in ranges]
        refused = 1 if login else 0  # what a registry wants is remembered
        assert len(registry.requests) == 5 + refused
        assert len(registry.token_requests) == (1 if login == "bearer" else 0)
        parts = [part async for part in client.blobs.stream(DIGEST, len(CONTENT), part=1000)]
        assert b"".join(parts) == CONTENT and len(parts) == 11
        with pytest.raises(BlobNotFound, match=r"blob sha256:ab.* answers 404 Not Found \(BLOB_UNKNOWN\)"):
            await client.blobs.read("sha256:" + "ab" * 32, 0, 1)


async def test_manifests_and_tags() -> None:
    async with FakeRegistry() as registry, client_of(registry) as client:
        digest = registry.add_manifest("v1", {"schemaVersion": 2}, MANIFEST)
        for tag in ("v2", "v3", "latest", "b"):
            registry.add_manifest(tag, {"schemaVersion": 2, "tag": tag}, MANIFEST)
        by_tag, by_digest = await client.get_manifest("v1"), await client.get_manifest(digest)
        assert by_tag == by_digest
        assert (by_tag.digest, by_tag.media_type, by_tag.document) == (digest, MANIFEST, {"schemaVersion": 2})
        assert await client.has_manifest("v2") and not await client.has_manifest("v9")
        assert not await client.has_blob(DIGEST)
        assert await client.tags() == ["b", "latest", "v1", "v2", "v3"]
        with pytest.raises(BlobNotFound, match=f"manifest v9 of {registry.host}/{REPOSITORY}: "):
            await client.get_manifest("v9")
        registry.manifests[digest] = (MANIFEST, b'{"schemaVersion": 3}')
        with pytest.raises(BlobCorrupt, match="another digest"):
            await client.get_manifest(digest)
        registry.manifests["v1"] = ("text/html", b"<html>")
        with pytest.raises(BlobCorrupt, match="web page"):
            await client.get_manifest("v1")
        registry.manifests["v1"] = (MANIFEST, b"null")
        with pytest.raises(BlobCorrupt, match="no JSON object"):
            await client.get_manifest("v1")


# logging in


@pytest.mark.parametrize("login", ["basic", "bearer"])
async def test_refusals_are_told_apart_from_all_else(login: str) -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry:
        registry.login = login
        async with client_of(registry) as client:
            with pytest.raises(BlobAuthError, match=registry.host) as no_login:
                await client.blobs.read(DIGEST, 0, 4)
        reason = "there are none for it" if login == "basic" else "refuses us without credentials"
        assert reason in str(no_login.value)
        async with client_of(registry, "c29tZWJvZHk6d3Jvbmc=") as client:
            with pytest.raises(BlobAuthError) as wrong:
                await client.blobs.read(DIGEST, 0, 4)
            assert "refuses the credentials (auth in the configuration)" in str(wrong.value)
            assert "c29tZW" not in str(wrong.value) and "wrong" not in str(wrong.value)
            before = len(registry.requests)
            client.credentials.set(BASIC)  # the API has better ones
            client.log_in_again()
            assert await client.blobs.read(DIGEST, 0, 4) == CONTENT[:4]
            assert len(registry.requests) - before <= 2
        async with client_of(registry, "no base64!") as client:
            with pytest.raises(BlobAuthError, match="not the base64 of user:password"):
                await client.blobs.read(DIGEST, 0, 4)


async def test_a_given_token_goes_first_and_a_refused_one_is_replaced() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry:
        registry.login = "bearer"
        registry.valid_tokens.add("given")
        async with client_of(registry, BASIC, fixed_token="given") as client:
            assert await client.blobs.read(DIGEST, 0, 4) == CONTENT[:4]
            assert registry.token_requests == []
            registry.valid_tokens.clear()
            assert await client.blobs.read(DIGEST, 4, 4) == CONTENT[4:8]
            assert len(registry.token_requests) == 1


async def test_a_token_that_dies_early_is_replaced_once_for_all_that_wait() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, client_of(registry, BASIC) as client:
        registry.login = "bearer"
        await client.blobs.read(DIGEST, 0, 1)
        registry.valid_tokens.clear()
        answers = await asyncio.gather(*(client.blobs.read(DIGEST, at, 1) for at in range(30)))
        assert b"".join(answers) == CONTENT[:30]
        assert len(registry.token_requests) == 2


async def test_a_403_may_mean_an_expired_login() -> None:
    """As ECR does it: no 401, no challenge."""

    async def expired(request: web.Request) -> web.Response | None:
        if request.headers["Authorization"].removeprefix("Bearer ") in old:
            return web.Response(status=403)
        return None

    old: set[str] = set()
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, client_of(registry, BASIC) as client:
        registry.login = "basic"
        registry.answer = expired
        await client.blobs.read(DIGEST, 0, 1)
        old.add(f"Basic {BASIC}")
        with pytest.raises(BlobAuthError, match="answers 403"):
            await client.blobs.read(DIGEST, 0, 1)
        registry.password = "new"
        client.credentials.set("c29tZWJvZHk6bmV3")
        assert await client.blobs.read(DIGEST, 0, 1) == CONTENT[:1]


# redirects


async def test_redirects_are_followed_without_credentials_and_remembered() -> None:
    async with (
        FakeRegistry({BLOB_ID: CONTENT}) as registry,
        Storage({BLOB_ID: CONTENT}) as storage,
        client_of(registry, BASIC) as client,
    ):
        registry.login, registry.storage = "bearer", storage.url
        assert await client.blobs.size(DIGEST) == len(CONTENT)
        registry.requests.clear()
        for offset in range(5):
            assert await client.blobs.read(DIGEST, offset, 10) == CONTENT[offset : offset + 10]
        assert len(registry.requests) == 0  # since the question for the size
        assert all("Authorization" not in seen.headers for seen in storage.requests)
        storage.expire()
        assert await client.blobs.read(DIGEST, 7, 10) == CONTENT[7:17]
        assert len(registry.requests) == 1
        registry.requests.clear()
        assert await client.blobs.read(DIGEST, 7, 10, again=True) == CONTENT[7:17]
        assert registry.requests[0].headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("status", [400, 401, 403, 410])
async def test_a_fresh_url_that_is_refused_is_the_storages_fault(status: int) -> None:
    async with (
        FakeRegistry({BLOB_ID: CONTENT}) as registry,
        Storage({BLOB_ID: CONTENT}, refuse_all=True, refuse_status=status) as storage,
        client_of(registry) as client,
    ):
        registry.storage = storage.url
        with pytest.raises(
            Exception, match=f"refuses the URL that {registry.host} has just redirected"
        ) as info:
            await client.blobs.read(DIGEST, 0, 10)
        assert storage.host in str(info.value) and "signature" not in str(info.value)
        assert len(registry.requests) == 1


async def test_redirects_within_the_registry_go_with_credentials() -> None:

    async def elsewhere(request: web.Request) -> web.Response | None:
        if "hop" in request.query:
            return None if request.query["hop"] == "0" else hop(int(request.query["hop"]) - 1)
        return hop(hops)

    def hop(count: int) -> web.Response:
        location = f"/v2/{REPOSITORY}/blobs/{DIGEST}?hop={count}"
        return web.Response(status=302, headers={"Location": location})

    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, client_of(registry, BASIC) as client:
        registry.login, registry.answer = "basic", elsewhere
        hops = 0
        assert await client.blobs.read(DIGEST, 0, 10) == CONTENT[:10]
        client.blobs.forget()
        hops = 3
        assert await client.blobs.read(DIGEST, 0, 10) == CONTENT[:10]
        client.blobs.forget()
        hops = 9
        with pytest.raises(BlobCorrupt, match="redirects more than 5 times"):
            await client.blobs.read(DIGEST, 0, 10)


async def test_the_size_of_a_blob_where_head_is_unknown() -> None:
    async def no_head(request: web.Request) -> web.Response | None:
        return web.Response(status=405) if request.method == "HEAD" else None

    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, client_of(registry) as client:
        registry.answer = no_head
        assert await client.blobs.size(DIGEST) == len(CONTENT)


async def test_a_redirect_to_nowhere() -> None:
    async with FakeRegistry({BLOB_ID: CONTENT}) as registry, client_of(registry) as client:
        registry.storage = "http://["
        with pytest.raises(BlobCorrupt, match="redirects to what is no URL"):
            await client.blobs.read(DIGEST, 0, 10)


# other ways


async def test_another_way_is_asked_when_the_bytes_were_wrong() -> None:
    async def lie(request: web.Request) -> web.StreamResponse:
        return ranged(request, bytes(len(CONTENT)))

    async with (
        FakeRegistry({BLOB_ID: CONTENT}) as registry,
        FakeRegistry({BLOB_ID: CONTENT}) as mirror,
        client_of(registry) as client,
    ):
        mirror.answer = lie
        way = Route(mirror.url, "mirror", is_source=False, headers={"X-Dragonfly-Registry": "https://r"})
        client.set_routes([way, Route(registry.url, registry.host)])
        assert await client.blobs.read(DIGEST, 0, 10) == bytes(10)
        assert mirror.requests[0].headers["X-Dragonfly-Registry"] == "https://r"
        assert await client.blobs.read(DIGEST, 0, 10, again=True) == CONTENT[:10]
        assert (len(mirror.requests), len(registry.requests)) == (1, 1)
        mirror.blobs.clear()
        mirror.answer = None
        assert await client.blobs.read(DIGEST, 0, 10) == CONTENT[:10]  # a mirror need not have it
        await registry.stop()
        with pytest.raises(BlobNetworkError, match=r"no connection.*; mirror: answers 404"):
            await client.blobs.read(DIGEST, 0, 10)


async def test_dockers_logins_go_to_the_registry_itself_only(tmp_path: Path) -> None:
    """Whoever writes a configuration may name a mirror or proxy, and must not get the machine's logins so."""
    path = tmp_path / "config.json"
    async with (
        FakeRegistry({BLOB_ID: CONTENT}) as registry,
        FakeRegistry({BLOB_ID: CONTENT}) as mirror,
        ForwardProxy() as proxy,
        client_of(registry) as client,
    ):
        path.write_text(json.dumps({"auths": {registry.host: {"auth": BASIC}}}))
        client.credentials = Credentials(registry.host, REPOSITORY, docker_config=path)
        registry.login = mirror.login = "basic"
        client.set_routes(
            [
                Route(mirror.url, "mirror", is_source=False),
                Route(registry.url, "proxied", proxy=proxy.url),
                Route(registry.url, registry.host),
            ]
        )
        assert await client.blobs.read(DIGEST, 0, 10) == CONTENT[:10]
        assert not any("Authorization" in seen.headers for seen in mirror.requests)
        assert proxy.requests and not any("Authorization" in headers for _, headers in proxy.requests)
