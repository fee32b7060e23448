"""Artifacts that belong to an image without changing it: pushed with a `subject`, found by it.

Registries that know referrers list them; for the others the specification has a tag, `sha256-HEX` of the
subject, with an index of them that whoever pushes keeps up to date.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from rafs.backend.body import read_document
from rafs.backend.http import HttpFailure
from rafs.backend.mirrors import Route
from rafs.errors import BlobCorrupt, BlobNotFound
from rafs.oci.descriptor import (
    DOCKER_CONFIG,
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    RAFS_MANIFEST,
    Descriptor,
    InvalidImage,
    pack_document,
    parse_document,
)
from rafs.registry.client import RegistryClient
from rafs.registry.push import Pusher

MAX_REFERRERS = 10_000
#: two who push at the same time overwrite each other's index; the loser sees it and does it again
_FALLBACK_ROUNDS = 5
_EMPTY = b"{}"
#: artifact types of manifests that are images, their configuration's if they have no other
_IMAGES = (RAFS_MANIFEST, OCI_CONFIG, DOCKER_CONFIG)
_locks: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()


def fallback_tag(digest: str) -> str:
    return digest.replace(":", "-", 1)


async def list_referrers(
    client: RegistryClient, subject: str, artifact_type: str | None = None
) -> list[Descriptor]:
    """The manifests whose subject is `subject`, of one artifact type or of all. Raises BlobUnavailable."""
    found = await _ask(client, subject)
    if found is None:
        found = await _read_fallback(client, subject)
    return [one for one in found if artifact_type is None or one.more.get("artifactType") == artifact_type]


async def push_artifact(
    pusher: Pusher,
    subject: Descriptor,
    artifact_type: str,
    contents: Sequence[tuple[str, bytes]],
    annotations: Mapping[str, str] | None = None,
) -> Descriptor:
    """Push an artifact of (media type, bytes) layers that refers to `subject`; return its descriptor.

    Raises BlobUnavailable.
    """
    empty = await pusher.push_bytes(_EMPTY, OCI_EMPTY)
    layers = [await pusher.push_bytes(content, media_type) for media_type, content in contents]
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": empty.document(),
        "layers": [layer.document() for layer in layers or [empty]],
        "subject": _bare(subject).document(),
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return await push_referrer(pusher, pack_document(manifest))


async def push_referrer(pusher: Pusher, content: bytes, target: str | None = None) -> Descriptor:
    """Push an OCI manifest with a subject, by digest or tag, so that it is found. Raises BlobUnavailable."""
    document = parse_document(content, "a manifest to push")
    subject = Descriptor.parse(document.get("subject"), "the subject of a manifest to push")
    more = {"artifactType": document.get("artifactType") or document.get("config", {}).get("mediaType")}
    if document.get("annotations"):
        more["annotations"] = document["annotations"]
    referrer = Descriptor.of(content, OCI_MANIFEST, **more)
    linked = await pusher.push_manifest(content, OCI_MANIFEST, target)
    if linked != subject.digest:
        await _add_to_fallback(pusher, subject.digest, referrer)
    return referrer


def _bare(subject: Descriptor) -> Descriptor:
    """Some registries refuse a subject that says more."""
    return Descriptor(subject.media_type, subject.digest, subject.size)


async def _ask(client: RegistryClient, subject: str) -> list[Descriptor] | None:
    """What the registry lists; None when it does not know referrers."""
    what = f"referrers of {subject} in {client.host}/{client.repository}"

    async def attempt(route: Route) -> list[Descriptor] | None:
        found: list[Descriptor] = []
        path = f"referrers/{subject}"
        while path:
            async with client.request(
                route, "GET", path, ok=(200, 404), headers={"Accept": OCI_INDEX}
            ) as response:
                if response.status == 404:
                    return None
                if response.headers.get("Content-Type", "").partition(";")[0].strip() != OCI_INDEX:
                    return None  # something that answers everything with a page
                found += _parse_index(await read_document(response, route.name, MAX_DOCUMENT), route.name)
                path = str(response.links["next"]["url"]) if "next" in response.links else ""
            if len(found) > MAX_REFERRERS:
                raise HttpFailure(
                    "corrupt", route.name, f"lists more than {MAX_REFERRERS} referrers", again=False
                )
        return found

    return await client.run(what, attempt)


def _parse_index(content: bytes, host: str) -> list[Descriptor]:
    try:
        manifests = json.loads(content).get("manifests")
        return [Descriptor.parse(one, "a referrer") for one in manifests or []]
    except (ValueError, AttributeError, TypeError, InvalidImage):
        raise HttpFailure("corrupt", host, "sends what is no list of referrers") from None


async def _read_fallback(client: RegistryClient, subject: str) -> list[Descriptor]:
    try:
        manifest = await client.get_manifest(fallback_tag(subject), accept=[OCI_INDEX])
    except BlobNotFound:
        return []
    try:
        return _parse_index(manifest.content, client.host)
    except HttpFailure as failure:
        raise BlobCorrupt(f"referrers of {subject}: {failure}") from None


async def _add_to_fallback(pusher: Pusher, subject: str, referrer: Descriptor) -> None:
    """Among processes the last one wins, and may not have seen the others; here they wait for each other."""
    key = (pusher.client.host, pusher.client.repository, subject)
    lock = _locks.get(key)
    if lock is None:
        lock = _locks[key] = asyncio.Lock()
    async with lock:
        await _write_fallback(pusher, subject, referrer)


async def _write_fallback(pusher: Pusher, subject: str, referrer: Descriptor) -> None:
    for _ in range(_FALLBACK_ROUNDS):
        known = await _read_fallback(pusher.client, subject)
        if any(one.digest == referrer.digest for one in known):
            return
        # images first: nydus-snapshotter looks at the first referrer only
        is_image = referrer.more.get("artifactType") in _IMAGES
        listed = [referrer, *known] if is_image else [*known, referrer]
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [one.document() for one in listed],
        }
        await pusher.push_manifest(pack_document(index), OCI_INDEX, fallback_tag(subject))
    if all(one.digest != referrer.digest for one in await _read_fallback(pusher.client, subject)):
        raise BlobCorrupt(
            f"manifest {referrer.digest} was pushed, but others keep overwriting the list of referrers of "
            f"{subject}; push it again"
        )
