"""A converted image as a client finds it: checked against the specification, and its files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rafs.image import Image
from tests import blobs, erofs
from tests.trees import Entry, describe

BLOB = "application/vnd.oci.image.layer.nydus.blob.v1"
#: digest to bytes
Fetch = Callable[[str], bytes]


def check_manifest(
    fetch: Fetch, digest: str, scratch: Path, config_type: str = "", fs_version: str = "6"
) -> tuple[Path, list[Path]]:
    """Check all that a manifest names (format sections 1.1, 1.2); return bootstrap and blobs in `scratch`."""
    manifest = _document(fetch, digest)
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    *data, boot = manifest["layers"]
    config = _document(fetch, manifest["config"]["digest"])
    assert manifest["config"]["mediaType"] == config_type or config_type == ""
    diff_ids = config["rootfs"]["diff_ids"]
    assert len(diff_ids) == len(manifest["layers"])
    assert len([entry for entry in config["history"] if not entry.get("empty_layer")]) == len(diff_ids)
    scratch.mkdir(parents=True, exist_ok=True)
    for layer, diff_id in zip(data, diff_ids, strict=False):
        assert layer["mediaType"] == BLOB
        assert layer["annotations"] == {"containerd.io/snapshot/nydus-blob": "true"}
        assert diff_id == layer["digest"]
        (scratch / layer["digest"].removeprefix("sha256:")).write_bytes(_checked(fetch, layer))
    assert boot["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert boot["annotations"] == {
        "containerd.io/snapshot/nydus-bootstrap": "true",
        "containerd.io/snapshot/nydus-fs-version": fs_version,
    }
    plain = gzip.decompress(_checked(fetch, boot))
    assert diff_ids[-1] == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        folder, file = tar.getmembers()
        assert (folder.name, folder.isdir(), folder.mode) == ("image", True, 0o755)
        assert (file.name, file.isreg(), file.mode) == ("image/image.boot", True, 0o444)
        extracted = tar.extractfile(file)
        assert extracted is not None
        (scratch / "image.boot").write_bytes(extracted.read())
    image = Image(scratch / "image.boot")
    ids = [image.blob_record(index).blob_id.decode() for index in range(image.blob_count)]
    image.close()
    assert {f"sha256:{blob_id}" for blob_id in ids} == {layer["digest"] for layer in data}
    return scratch / "image.boot", [scratch / blob_id for blob_id in ids]


def tree_of(bootstrap: Path, blob_files: list[Path], codec: int) -> dict[bytes, Entry]:
    """The files of the image, as the kernel reads them; `codec` of the blobs as on disk."""
    devices = []
    for path in blob_files:
        device = path.with_suffix(".device")
        blobs.fill_device(path, codec, device)
        devices.append(device)
    erofs.fsck(bootstrap, devices)
    with erofs.mounted(bootstrap, devices) as point:
        return describe(point)


def _document(fetch: Fetch, digest: str) -> dict[str, Any]:
    content = fetch(digest)
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
    document: dict[str, Any] = json.loads(content)
    return document


def _checked(fetch: Fetch, layer: dict[str, Any]) -> bytes:
    content = fetch(layer["digest"])
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == layer["digest"]
    assert len(content) == layer["size"]
    return content
