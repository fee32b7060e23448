"""Pushing and referrers, against our registry and Debian's docker-registry, which knows no referrers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from rafs.backend.http import HttpOptions, HttpPool
from rafs.errors import BlobNotFound, BlobUnavailable
from rafs.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, pack_document
from rafs.registry.client import RegistryClient
from rafs.registry.credentials import Credentials
from rafs.registry.push import Pushed, Pusher
from rafs.registry.referrers import fallback_tag, list_referrers, push_artifact, push_referrer
from tests.fakes.accounts import BASIC, PASSWORD, USER
from tests.fakes.registries import docker_registry_at
from tests.fakes.served_registry import registry_served
from tests.fakes.token_server import TokenServer

PART = 64 << 10
SMALL, LARGE = b"small" * 100, os.urandom(5 * PART + 1234)


@pytest.fixture(params=["ours", "docker-registry"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "ours":
        with registry_served(tmp_path / "registry") as host:
            yield host
    else:
        with docker_registry_at(tmp_path / "registry") as registry:
            yield registry.host


@asynccontextmanager
async def pusher_to(host: str, repository: str = "a/web", auth: str = "") -> AsyncIterator[Pusher]:
    pool = HttpPool()
    options = HttpOptions(connect_timeout_s=5, timeout_s=20)
    credentials = Credentials(host, repository, auth=auth)
    client = RegistryClient(pool, host, repository, scheme="http", options=options, credentials=credentials)
    try:
        yield Pusher(client, part_size=PART)
    finally:
        client.close()
        await pool.close()


async def content_of(client: RegistryClient, blob: Descriptor) -> bytes:
    return b"".join([part async for part in client.blobs.stream(blob.digest, blob.size)])


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
async def test_blobs_are_sent_once(host: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blob").write_bytes(content)
    blob = Descriptor.of(content, "application/octet-stream")
    sent = 0

    def count(size: int) -> None:
        nonlocal sent
        sent += size

    async with pusher_to(host) as pusher:
        assert await pusher.push_blob(blob, tmp_path / "blob", on_sent=count) is Pushed.SENT
        assert sent == len(content)
        assert await pusher.push_blob(blob, tmp_path / "blob", on_sent=count) is Pushed.THERE
        assert sent == len(content)
        assert await content_of(pusher.client, blob) == content


async def test_a_blob_of_another_repository_is_mounted(host: str) -> None:
    blob = Descriptor.of(SMALL, "application/octet-stream")
    async with pusher_to(host, "first") as first, pusher_to(host, "second") as second:
        assert await second.push_blob(blob, SMALL, mount_from=["first", "second"]) is Pushed.SENT
        assert await first.push_blob(blob, SMALL, mount_from=["no/such", "second"]) is Pushed.MOUNTED
        assert await content_of(first.client, blob) == SMALL


async def test_a_wrong_digest_is_refused(host: str) -> None:
    blob = Descriptor("application/octet-stream", Descriptor.of(b"x", "").digest, len(SMALL))
    async with pusher_to(host) as pusher:
        with pytest.raises(BlobUnavailable, match="DIGEST_INVALID"):
            await pusher.push_blob(blob, SMALL)
        assert not await pusher.client.has_blob(blob.digest)


async def test_a_file_that_is_shorter_than_it_was(host: str, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(LARGE[:-1])
    sent = [0]
    async with pusher_to(host) as pusher:
        with pytest.raises(BlobUnavailable):
            await pusher.push_blob(
                Descriptor.of(LARGE, ""), tmp_path / "blob", on_sent=lambda size: sent.append(size)
            )
    assert sum(sent) == 0  # nothing of it counts


async def _push_image(pusher: Pusher, tag: str, layer: bytes = SMALL) -> Descriptor:
    config = await pusher.push_bytes(b"{}", OCI_CONFIG)
    blob = await pusher.push_bytes(layer, "application/vnd.oci.image.layer.v1.tar")
    manifest = pack_document(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.document(),
            "layers": [blob.document()],
        }
    )
    assert await pusher.push_manifest(manifest, OCI_MANIFEST, tag) is None
    return Descriptor.of(manifest, OCI_MANIFEST)


async def test_manifests_by_tag_and_digest(host: str) -> None:
    async with pusher_to(host) as pusher:
        image = await _push_image(pusher, "v1")
        index = pack_document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [image.document()]})
        await pusher.push_manifest(index, OCI_INDEX)
        client = pusher.client
        assert (await client.get_manifest("v1")).digest == image.digest
        assert (await client.get_manifest(Descriptor.of(index, "").digest)).content == index
        assert await client.tags() == ["v1"]
        await pusher.delete_manifest(image.digest)
        with pytest.raises(BlobNotFound):
            await client.get_manifest("v1")
        with pytest.raises(BlobNotFound):
            await pusher.delete_manifest(image.digest)


async def test_artifacts_are_found_by_their_subject(host: str) -> None:
    async with pusher_to(host) as pusher:
        client = pusher.client
        image = await _push_image(pusher, "v1")
        assert await list_referrers(client, image.digest) == []
        # at the same time, as different nodes may
        one, two = await asyncio.gather(
            push_artifact(pusher, image, "x/trace", [("x/layer", b"trace")], {"node": "1"}),
            push_artifact(pusher, image.but(platform={"os": "linux"}), "x/other", []),
        )
        found = await list_referrers(client, image.digest)
        assert {entry.digest for entry in found} == {one.digest, two.digest}
        (trace,) = await list_referrers(client, image.digest, "x/trace")
        assert (trace.digest, trace.size, trace.annotations) == (one.digest, one.size, {"node": "1"})
        document = (await client.get_manifest(trace.digest)).document
        layer = Descriptor.parse(document["layers"][0], "layer")
        assert (layer.media_type, await content_of(client, layer)) == ("x/layer", b"trace")
        assert document["subject"] == {
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": image.size,
        }
        # again is no other one
        again = await push_artifact(pusher, image, "x/trace", [("x/layer", b"trace")], {"node": "1"})
        assert again == one and len(await list_referrers(client, image.digest)) == 2
        # the image is what it was
        assert (await client.get_manifest("v1")).digest == image.digest


async def test_only_registries_without_referrers_get_the_tag(tmp_path: Path) -> None:
    with registry_served(tmp_path / "1") as ours, docker_registry_at(tmp_path / "2") as docker:
        for host, has_tag in ((ours, False), (docker.host, True)):
            async with pusher_to(host) as pusher:
                image = await _push_image(pusher, "v1")
                await push_artifact(pusher, image, "x/trace", [])
                assert (fallback_tag(image.digest) in await pusher.client.tags()) is has_tag


async def test_a_referrer_with_a_tag_of_its_own(host: str) -> None:
    async with pusher_to(host) as pusher:
        image = await _push_image(pusher, "v1")
        config = await pusher.push_bytes(b"{}", "x/config")
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.document(),
            "layers": [],
            "subject": image.document(),
        }
        referrer = await push_referrer(pusher, pack_document(manifest), "v1-rafs")
        (found,) = await list_referrers(pusher.client, image.digest, "x/config")
        assert found == referrer
        assert (await pusher.client.get_manifest("v1-rafs")).digest == referrer.digest


@pytest.mark.parametrize("login", ["basic", "bearer"])
async def test_logging_in(tmp_path: Path, login: str) -> None:
    """Pushing wants another scope than pulling, and mounting one more."""
    with (
        TokenServer(USER, PASSWORD) as token_server,
        docker_registry_at(tmp_path / "r", login=login, token_server=token_server) as registry,
    ):
        async with pusher_to(registry.host, "first", BASIC) as first:
            await _push_image(first, "v1")
        async with pusher_to(registry.host, "second", BASIC) as second:
            blob = Descriptor.of(SMALL, "application/octet-stream")
            assert await second.push_blob(blob, SMALL, mount_from=["first"]) is Pushed.MOUNTED


async def test_a_broken_upload_goes_on(tmp_path: Path) -> None:
    """The third part is lost twice: no other one is sent again."""
    broken = 2
    patches: list[str] = []

    @web.middleware
    async def break_some(request: web.Request, handler):  # type: ignore[no-untyped-def]
        nonlocal broken
        if request.method == "PATCH":
            patches.append(request.headers["Content-Range"])
            if request.headers["Content-Range"].startswith(f"{2 * PART}-") and broken:
                broken -= 1
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        return await handler(request)

    with registry_served(tmp_path / "registry", break_some) as host:
        async with pusher_to(host) as pusher:
            blob = Descriptor.of(LARGE, "application/octet-stream")
            sent = [0]
            assert await pusher.push_blob(blob, LARGE, on_sent=lambda size: sent.append(size)) is Pushed.SENT
            assert sum(sent) == len(LARGE)
            assert await content_of(pusher.client, blob) == LARGE
    starts = [int(said.split("-")[0]) // PART for said in patches]
    assert starts == [0, 1, 2, 2, 2, 3, 4, 5]
