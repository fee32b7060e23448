"""OCI images made of tar layers, in a layout on disk, as other builders would write them."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from typing import Any

import zstandard

from rafs.oci.descriptor import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    pack_document,
)
from rafs.oci.layout import Layout
from tests import tars
from tests.tars import Member

TYPES = {
    "oci": (OCI_MANIFEST, OCI_INDEX, OCI_CONFIG, OCI_LAYER_GZIP),
    "docker": (DOCKER_MANIFEST, DOCKER_INDEX, DOCKER_CONFIG, DOCKER_LAYER_GZIP),
}
#: three layers: each changes what is below; the middle one has an entry of the history without a layer
LAYERS: list[list[Member]] = [
    [
        tars.directory("etc", 0o755),
        Member("etc/passwd", b"root:x:0:0\n" * 2000),
        Member("etc/gone", b"gone" * 3000),
        tars.directory("usr/bin"),
        Member("usr/bin/tool", bytes(range(256)) * 100, mode=0o755),
        tars.hard_link("usr/bin/alias", "usr/bin/tool"),
        tars.symlink("bin", "usr/bin"),
    ],
    [Member("etc/.wh.gone"), Member("etc/passwd", b"root:x:0:0\nuser:x:1:1\n" * 1500, mode=0o600)],
    [Member("var/lib/.wh..wh..opq"), Member("var/lib/data", b"data" * 5000), Member("empty")],
]
EXPECTED = {
    "etc/passwd": b"root:x:0:0\nuser:x:1:1\n" * 1500,
    "usr/bin/tool": bytes(range(256)) * 100,
    "usr/bin/alias": bytes(range(256)) * 100,
    "var/lib/data": b"data" * 5000,
    "empty": b"",
}


def add_image(
    layout: Layout,
    layers: Sequence[Sequence[Member] | bytes],
    *,
    tag: str | None,
    kind: str = "oci",
    compression: str = "gzip",
    architecture: str = "amd64",
    **config: Any,
) -> Descriptor:
    """Add an image; return its descriptor. A layer is a list of members or a plain tar."""
    layout.create()
    manifest_type, _, config_type, layer_type = TYPES[kind]
    descriptors, diff_ids = [], []
    for layer in layers:
        plain = layer if isinstance(layer, bytes) else tars.archive(layer)
        diff_ids.append(f"sha256:{hashlib.sha256(plain).hexdigest()}")
        if compression == "gzip":
            content, media_type = gzip.compress(plain, 1, mtime=0), layer_type
        elif compression == "zstd":
            content, media_type = zstandard.compress(plain), "application/vnd.oci.image.layer.v1.tar+zstd"
        else:
            content, media_type = plain, "application/vnd.oci.image.layer.v1.tar"
        descriptors.append(_put(layout, content, media_type))
    history = [{"created_by": f"layer {number}", "comment": "made"} for number in range(len(layers))]
    history.insert(1, {"created_by": "ENV A=1", "empty_layer": True})  # type: ignore[dict-item]
    document = {
        "created": "2024-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin"], "Cmd": ["/usr/bin/tool"], **config},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    }
    config_blob = _put(layout, pack_document(document), config_type)
    manifest = pack_document(
        {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config_blob.document(),
            "layers": [descriptor.document() for descriptor in descriptors],
        }
    )
    descriptor = _put(layout, manifest, manifest_type)
    if tag is not None:
        layout.list(descriptor, tag)
    return descriptor


def add_index(layout: Layout, manifests: Sequence[Descriptor], *, tag: str, kind: str = "oci") -> Descriptor:
    _, index_type, _, _ = TYPES[kind]
    document = {
        "schemaVersion": 2,
        "mediaType": index_type,
        "manifests": [one.document() for one in manifests],
    }
    descriptor = _put(layout, pack_document(document), index_type)
    layout.list(descriptor, tag)
    return descriptor


def for_platform(manifest: Descriptor, architecture: str, os: str = "linux") -> Descriptor:
    return manifest.but(platform={"architecture": architecture, "os": os})


def _put(layout: Layout, content: bytes, media_type: str) -> Descriptor:
    descriptor = Descriptor.of(content, media_type)
    layout.put(descriptor, content)
    return descriptor
