"""Documents of others: what is taken, what is refused, and that nothing else is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rafs.errors import BuildError
from rafs.oci.descriptor import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MAX_DOCUMENT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    InvalidImage,
    pack_document,
    parse_document,
)
from rafs.oci.image import Manifest, Platform, media_type_of, parse_index, wanted_manifests

DIGEST = "sha256:" + "0a" * 32
PLAIN: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 5}


def test_members_that_are_not_known_are_kept() -> None:
    platform = {"os": "linux", "os.features": ["x"]}
    raw = {**PLAIN, "annotations": {"a": "b"}, "platform": platform, "data": "eA=="}
    descriptor = Descriptor.parse(raw, "it")
    assert descriptor.document() == raw
    changed = descriptor.but(annotations={"c": "d"}, data=None).document()
    assert changed == {**PLAIN, "annotations": {"c": "d"}, "platform": platform}
    assert json.loads(pack_document({"m": descriptor.document()})) == {"m": raw}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "sha256:../../etc/passwd"}, "'sha256:../../etc/passwd' is no digest"),
        ({"digest": "sha512:" + "0" * 128}, "is no digest"),
        ({"digest": DIGEST.upper()}, "is no digest"),
        ({"digest": None}, "is no digest"),
        ({"size": -1}, "has size '-1'"),
        ({"size": True}, "has size 'True'"),
        ({"size": 1 << 60}, "has size"),
        ({"size": "5"}, "has size"),
        ({"mediaType": 5}, "has no media type"),
        ({"annotations": []}, "has annotations that are no object"),
        ({"platform": "linux"}, "has platform that are no object"),
    ],
)
def test_descriptors_that_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidImage, match=f"layer 3.*{said}"):
        Descriptor.parse({**PLAIN, **change}, "layer 3")


BROKEN = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b" " * (MAX_DOCUMENT + 1)]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_documents_that_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidImage, match=r"^the index "):
        parse_document(content, "the index")


def test_media_types() -> None:
    """The header goes first, then the document's own word: some have only one of them."""
    own = pack_document({"mediaType": DOCKER_INDEX})
    assert media_type_of(own, OCI_INDEX, "x") == OCI_INDEX
    assert media_type_of(own, "application/json", "x") == DOCKER_INDEX
    assert media_type_of(pack_document({}), DOCKER_MANIFEST, "x") == DOCKER_MANIFEST
    with pytest.raises(InvalidImage, match="is a 'text/plain', which is no image"):
        media_type_of(pack_document({}), "text/plain", "x")


@pytest.mark.parametrize("layers", [None, [], {}, [PLAIN] * 1001, [{}]], ids=range(5))
def test_manifests_that_are_refused(layers: object) -> None:
    with pytest.raises(InvalidImage, match=f"manifest {DIGEST}"):
        Manifest.parse(Descriptor.parse(PLAIN, "x"), pack_document({"config": PLAIN, "layers": layers}))


def entry(os: str, architecture: str, variant: str = "") -> Descriptor:
    platform = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
    return Descriptor.parse({**PLAIN, "platform": platform}, "x")


def test_platforms() -> None:
    arm7, arm6 = entry("linux", "arm", "v7"), entry("linux", "arm", "v6")
    amd, windows, unknown = entry("linux", "amd64"), entry("windows", "amd64"), entry("unknown", "unknown")
    everything = [arm7, arm6, amd, windows, unknown]
    assert wanted_manifests(everything, []) == ([arm7, arm6, amd], [windows, unknown])
    arm = [Platform.parse("linux/arm")]
    assert wanted_manifests(everything, arm) == ([arm7, arm6], [amd, windows, unknown])
    wanted, _ = wanted_manifests(everything, [Platform.parse("linux/arm/v6"), Platform.parse("linux/amd64")])
    assert wanted == [arm6, amd]
    with pytest.raises(BuildError, match=r"not made for linux/s390x; it has linux/arm/v7, linux/arm/v6"):
        wanted_manifests(everything, [Platform.parse("linux/s390x"), *arm])
    with pytest.raises(BuildError, match="no image for Linux"):
        wanted_manifests([windows], [])


def test_indexes_are_bounded() -> None:
    index = Descriptor.parse(PLAIN, "x")
    assert parse_index(index, pack_document({"manifests": [PLAIN]})) == [index]
    broken: list[Any] = [None, {}, [PLAIN] * 1001, [5]]
    for manifests in broken:
        with pytest.raises(InvalidImage, match="index sha256:0a"):
            parse_index(index, pack_document({"manifests": manifests}))
