"""Traces beside an image: in a registry that knows referrers, and in one that does not; the image stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rafs.backend.http import HttpPool
from rafs.errors import BlobNotFound
from rafs.oci.descriptor import OCI_MANIFEST, Descriptor, pack_document
from rafs.registry.client import RegistryClient
from rafs.registry.push import Pusher
from rafs.registry.referrers import fallback_tag, push_artifact
from rafs.trace.errors import TraceError
from rafs.trace.registry import ARTIFACT_TYPE, LAYER_TYPE, pull_traces, push_trace
from tests.fakes.registries import docker_registry_at
from tests.fakes.served_registry import registry_served
from tests.rafs.trace.traces import trace_of

FIRST, SECOND = trace_of([(0, 1), (1, 2)]), trace_of([(0, 3)])


@asynccontextmanager
async def an_image(host: str) -> AsyncIterator[tuple[RegistryClient, str]]:
    """A client of a repository that has an image with the tag "1"; and its digest."""
    pool = HttpPool()
    client = RegistryClient(pool, host, "team/web", scheme="http")
    try:
        pusher = Pusher(client)
        config = await pusher.push_bytes(b"{}", "application/vnd.oci.image.config.v1+json")
        layer = await pusher.push_bytes(b"a layer", "application/vnd.oci.image.layer.v1.tar")
        manifest = pack_document(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": config.document(),
                "layers": [layer.document()],
            }
        )
        await pusher.push_manifest(manifest, OCI_MANIFEST, "1")
        yield client, Descriptor.of(manifest, OCI_MANIFEST).digest
    finally:
        client.close()
        await pool.close()


async def check(host: str, *, has_fallback: bool) -> None:
    async with an_image(host) as (client, digest):
        with pytest.raises(TraceError, match=r"there is no trace beside .*team/web 1"):
            await pull_traces(client, "1")
        await push_trace(client, "1", FIRST)
        assert await pull_traces(client, "1") == [FIRST]
        await push_trace(client, digest, SECOND)
        assert await pull_traces(client, "1") == [SECOND, FIRST]
        assert await pull_traces(client, "1", limit=1) == [SECOND]
        assert (await client.get_manifest("1")).digest == digest
        if has_fallback:
            await client.get_manifest(fallback_tag(digest))
        else:
            with pytest.raises(BlobNotFound):
                await client.get_manifest(fallback_tag(digest))


async def test_a_registry_that_knows_referrers(tmp_path: Path) -> None:
    with registry_served(tmp_path) as host:
        await check(host, has_fallback=False)


async def test_a_registry_that_does_not(tmp_path: Path) -> None:
    with docker_registry_at(tmp_path) as registry:
        await check(registry.host, has_fallback=True)


async def test_what_is_broken_is_left_out(tmp_path: Path) -> None:
    with registry_served(tmp_path) as host:
        async with an_image(host) as (client, digest):
            image = await client.get_manifest("1")
            subject = Descriptor(image.media_type, digest, len(image.content))
            for layers in ([(LAYER_TYPE, b"no trace")], [("text/plain", b"x")], []):
                await push_artifact(Pusher(client), subject, ARTIFACT_TYPE, layers)
            with pytest.raises(TraceError, match=r"sha256:[0-9a-f]{64}: "):
                await pull_traces(client, "1")
            await push_trace(client, "1", FIRST)
            assert await pull_traces(client, "1") == [FIRST]
