"""Traces beside their image in a registry: artifacts whose subject is the image, which stays as it is.

The artifact has the type ARTIFACT_TYPE and one layer, the trace file. Registries that do not know referrers
get the fallback tag of the specification (rafs/registry/referrers.py).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from rafs.errors import BlobUnavailable
from rafs.oci.descriptor import Descriptor, InvalidImage
from rafs.registry.client import RegistryClient
from rafs.registry.push import Pusher
from rafs.registry.referrers import list_referrers, push_artifact
from rafs.trace.errors import TraceError
from rafs.trace.format import MAX_FILE_SIZE, Trace, pack_trace, parse_trace

ARTIFACT_TYPE = "application/vnd.vhostfs.trace.v1"
LAYER_TYPE = "application/vnd.vhostfs.trace.v1+zstd"
CREATED = "org.opencontainers.image.created"
RUNS = "io.vhostfs.trace.runs"
#: that are looked at, the newest ones
MAX_TRACES = 64


async def push_trace(client: RegistryClient, target: str, trace: Trace) -> Descriptor:
    """Put a trace beside the image with the tag or digest `target`. Raises BlobUnavailable, TraceError."""
    image = await client.get_manifest(target)
    subject = Descriptor(image.media_type, image.digest, len(image.content))
    created = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return await push_artifact(
        Pusher(client),
        subject,
        ARTIFACT_TYPE,
        [(LAYER_TYPE, pack_trace(trace))],
        {CREATED: created, RUNS: str(trace.runs)},
    )


async def pull_traces(client: RegistryClient, target: str, *, limit: int = MAX_TRACES) -> list[Trace]:
    """The traces beside an image, the newest first. What is beside it and broken is left out.

    Raises BlobUnavailable; TraceError when there is none that can be used.
    """
    image = await client.get_manifest(target)
    found = await list_referrers(client, image.digest, ARTIFACT_TYPE)
    if not found:
        raise TraceError(f"there is no trace beside {client.host}/{client.repository} {target}")
    found.sort(key=_created, reverse=True)
    traces, problem = list[Trace](), ""
    for referrer in found[:MAX_TRACES]:
        try:
            traces.append(await _pull(client, referrer))
        except (BlobUnavailable, InvalidImage, TraceError) as error:
            problem = f"{referrer.digest}: {error}"
        if len(traces) == limit:
            break
    if not traces:
        raise TraceError(problem)
    return traces


def _created(referrer: Descriptor) -> str:
    annotations = referrer.more.get("annotations")
    return str(annotations.get(CREATED, "")) if isinstance(annotations, dict) else ""


async def _pull(client: RegistryClient, referrer: Descriptor) -> Trace:
    manifest = await client.get_manifest(referrer.digest)
    layers = manifest.document.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        raise TraceError("the artifact of a trace has one layer")
    layer = Descriptor.parse(layers[0], "the layer of a trace")
    if layer.media_type != LAYER_TYPE or not 0 < layer.size <= MAX_FILE_SIZE:
        raise TraceError(f"the layer of a trace has the type {layer.media_type} and {layer.size} bytes")
    content = await client.blobs.read(layer.digest, 0, layer.size)
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != layer.digest:
        raise TraceError("the trace is not what its digest says")
    return parse_trace(content)
