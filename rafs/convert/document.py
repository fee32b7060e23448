"""The configuration and the manifest of a converted image (format section 1.1). Pure.

The configuration is the original's but for what describes layers. Its history says of each layer what it was,
so layers without a blob of their own are marked empty there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rafs.oci.descriptor import OCI_MANIFEST, RAFS_MANIFEST, Descriptor

PREFIX = "containerd.io/snapshot/"
OS_FEATURE = "nydus.remoteimage.v1"
#: of a configuration in an index that has the original too: clients that know no RAFS must not take it
RAFS_CONFIG = "application/vnd.nydus.image.config.v1+json"


def converted_config(
    original: dict[str, Any], has_blob: Sequence[bool], blobs: Sequence[Descriptor], bootstrap_diff_id: str
) -> dict[str, Any]:
    """`has_blob` says of each original layer whether it is one of `blobs`, which come in the same order.

    `blobs` may begin with others, which belong to no layer.
    """
    config = dict(original)
    diff_ids = [*(blob.digest for blob in blobs), bootstrap_diff_id]
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    config["history"] = _history(original, has_blob, len(blobs))
    return config


def _history(original: dict[str, Any], has_blob: Sequence[bool], blob_count: int) -> list[dict[str, Any]]:
    raw = original.get("history")
    entries = [dict(entry) for entry in raw if isinstance(entry, dict)] if isinstance(raw, list) else []
    described = [entry for entry in entries if not entry.get("empty_layer")]
    if len(described) != len(has_blob):  # it does not fit its own layers
        entries = described = [{} for _ in has_blob]
    for entry, stays in zip(described, has_blob, strict=True):
        if not stays:
            entry["empty_layer"] = True
    created = {"created": original["created"]} if isinstance(original.get("created"), str) else {}
    others = blob_count - sum(has_blob)
    shared = [{**created, "created_by": "vhostfs convert", "comment": "RAFS blob of shared chunks"}] * others
    bootstrap = {**created, "created_by": "vhostfs convert", "comment": "RAFS bootstrap"}
    return [*shared, *entries, bootstrap]


def blob_layer(blob: Descriptor) -> Descriptor:
    return blob.but(annotations={PREFIX + "nydus-blob": "true"})


def bootstrap_layer(layer: Descriptor, fs_version: str) -> Descriptor:
    return layer.but(
        annotations={PREFIX + "nydus-bootstrap": "true", PREFIX + "nydus-fs-version": fs_version}
    )


def converted_manifest(
    original: Descriptor,
    document: dict[str, Any],
    config: Descriptor,
    layers: Sequence[Descriptor],
    *,
    has_subject: bool,
) -> dict[str, Any]:
    """The manifest, in OCI's form: Docker's has no annotations."""
    annotations = document.get("annotations")
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
        "annotations": {
            **(annotations if isinstance(annotations, dict) else {}),
            PREFIX + "nydus-source-digest": original.digest,
        },
    }
    if has_subject:
        manifest["artifactType"] = RAFS_MANIFEST  # who looks for referrers can ask for these
        # without its platform, which some registries refuse
        manifest["subject"] = Descriptor(original.media_type, original.digest, original.size).document()
    return manifest


def is_converted(layers: Sequence[Descriptor]) -> bool:
    return PREFIX + "nydus-bootstrap" in layers[-1].annotations
