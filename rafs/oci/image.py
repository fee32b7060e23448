"""Images: manifests, indexes and platforms, as OCI and Docker write them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rafs.errors import BuildError
from rafs.oci.descriptor import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    InvalidImage,
    parse_document,
)

MAX_LAYERS = 1000
MAX_MANIFESTS = 1000


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on. An empty `variant` of a wish takes any."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse `linux/amd64` or `linux/arm/v7`. Raises BuildError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise BuildError(f"{text!r} is no platform; write it as linux/amd64 or linux/arm/v7")
        return cls(*parts)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Platform:
        """That of a descriptor or of a configuration."""
        return cls(*(str(raw.get(key, "")) for key in ("os", "architecture", "variant")))

    def takes(self, other: Platform) -> bool:
        """Whether `other` is what is wished for here."""
        same = (self.os, self.architecture) == (other.os, other.architecture)
        return same and self.variant in ("", other.variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: `content` is the document as it is stored, `descriptor` what named it."""

    descriptor: Descriptor
    content: bytes
    document: dict[str, Any]
    config: Descriptor
    layers: list[Descriptor]

    @classmethod
    def parse(cls, descriptor: Descriptor, content: bytes) -> Manifest:
        """Raises InvalidImage."""
        what = f"manifest {descriptor.digest}"
        document = parse_document(content, what)
        layers = document.get("layers")
        if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
            raise InvalidImage(f"{what} has no layers, or more than {MAX_LAYERS}")
        return cls(
            descriptor,
            content,
            document,
            Descriptor.parse(document.get("config"), f"{what}: config"),
            [Descriptor.parse(layer, f"{what}: layer {number}") for number, layer in enumerate(layers)],
        )


def parse_index(descriptor: Descriptor, content: bytes) -> list[Descriptor]:
    """The manifests of an index, or manifest list. Raises InvalidImage."""
    what = f"index {descriptor.digest}"
    manifests = parse_document(content, what).get("manifests")
    if not isinstance(manifests, list) or len(manifests) > MAX_MANIFESTS:
        raise InvalidImage(f"{what} has no list of manifests, or one longer than {MAX_MANIFESTS}")
    return [Descriptor.parse(one, f"{what}: manifest {number}") for number, one in enumerate(manifests)]


def media_type_of(content: bytes, said: str, what: str) -> str:
    """The media type of a manifest or an index: what was said, else what it says itself."""
    document = parse_document(content, what)
    for candidate in (said, document.get("mediaType")):
        if candidate in MANIFESTS or candidate in INDEXES:
            return str(candidate)
    raise InvalidImage(f"{what} is a {str(said or document.get('mediaType'))[:100]!r}, which is no image")


def wanted_manifests(
    manifests: Sequence[Descriptor], platforms: Sequence[Platform]
) -> tuple[list[Descriptor], list[Descriptor]]:
    """Split the manifests of an index: (those of Linux images that are wanted, all others).

    No platforms want all. Raises BuildError for a platform that the index does not have.
    """
    wanted, others = [], []
    seen: set[Platform] = set()
    for one in manifests:
        platform = Platform.of(one.platform)
        is_image = one.media_type in MANIFESTS and platform.os == "linux"
        takers = [wish for wish in platforms if wish.takes(platform)]
        if is_image and (takers or not platforms):
            wanted.append(one)
            seen.update(takers)
        else:
            others.append(one)
    if missing := [str(wish) for wish in platforms if wish not in seen]:
        has = ", ".join(str(Platform.of(one.platform)) for one in manifests) or "nothing"
        raise BuildError(f"the image is not made for {', '.join(missing)}; it has {has}")
    if not wanted:
        raise BuildError("the index has no image for Linux")
    return wanted, others
