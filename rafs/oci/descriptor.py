"""Descriptors: what an OCI document says of another piece of content. Pure.

Documents come from registries and archives of others, so what is read is checked here. What we do not know is
kept: a descriptor is written as it was read, but for what was changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rafs.errors import BuildError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

#: artifact type of a converted image
RAFS_MANIFEST = "application/vnd.nydus.image.manifest.v1+json"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})

#: of a manifest, an index or a configuration, as the OCI specification advises registries
MAX_DOCUMENT = 4 << 20
#: of one blob: more than any registry takes
MAX_BLOB = 1 << 40

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class InvalidImage(BuildError):
    """An OCI document is not what it should be; the text names it."""


def sha256_digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_digest(text: object, what: str) -> str:
    """Return `text` if it is a digest that we can check. Raises InvalidImage."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise InvalidImage(f"{what}: {str(text)[:100]!r} is no digest; sha256: and 64 hex digits are wanted")
    return text


def parse_document(content: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `content`. Raises InvalidImage."""
    if len(content) > MAX_DOCUMENT:
        raise InvalidImage(f"{what} has {len(content)} bytes, {MAX_DOCUMENT} at most are read")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidImage(f"{what} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidImage(f"{what} is JSON, but no object")
    return document


def pack_document(document: Mapping[str, Any]) -> bytes:
    """The same document gives the same bytes."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`size` in bytes; `more` has every other member of the object."""

    media_type: str
    digest: str
    size: int
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: object, what: str) -> Descriptor:
        """Check one descriptor of a document; `what` says where it stands. Raises InvalidImage."""
        if not isinstance(raw, dict):
            raise InvalidImage(f"{what} is no descriptor")
        media_type, size = raw.get("mediaType", ""), raw.get("size")
        if not isinstance(media_type, str):
            raise InvalidImage(f"{what} has no media type")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_BLOB:
            raise InvalidImage(f"{what} has size {str(size)[:40]!r}")
        more = {key: value for key, value in raw.items() if key not in ("mediaType", "digest", "size")}
        for key in ("annotations", "platform"):
            if not isinstance(more.get(key, {}), dict):
                raise InvalidImage(f"{what} has {key} that are no object")
        return cls(media_type, parse_digest(raw.get("digest"), what), size, more)

    @classmethod
    def of(cls, content: bytes, media_type: str, **more: Any) -> Descriptor:
        return cls(media_type, sha256_digest(content), len(content), more)

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")

    @property
    def annotations(self) -> dict[str, Any]:
        annotations: dict[str, Any] = self.more.get("annotations", {})
        return annotations

    @property
    def platform(self) -> dict[str, Any]:
        platform: dict[str, Any] = self.more.get("platform", {})
        return platform

    def but(self, **more: Any) -> Descriptor:
        """The same with other members; None takes one away."""
        merged = {key: value for key, value in {**self.more, **more}.items() if value is not None}
        return Descriptor(self.media_type, self.digest, self.size, merged)

    def document(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **self.more}
