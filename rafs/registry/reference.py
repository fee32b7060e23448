"""Names of images: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`, with Docker's defaults. Pure.

What has no host is Docker Hub's; a name of one word there is below `library/`; without tag and digest the tag
is `latest`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from rafs.errors import BuildError

DOCKER_HUB = "docker.io"
#: names of Docker Hub in references and in nydus-snapshotter's configurations
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_HUB_HOST = "registry-1.docker.io"
MAX_LENGTH = 4096

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")


class InvalidReference(BuildError):
    """A name that is no image reference."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An image, or all images of a repository, at a registry. Of `tag` and `digest` at least one is set."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a name as people write it. Raises InvalidReference."""
        if len(text) > MAX_LENGTH:
            raise InvalidReference(f"an image name of {len(text)} characters is too long")
        rest, at, digest = text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise InvalidReference(f"{text!r}: {digest!r} is no digest such as sha256:... with 64 hex digits")
        host, slash, path = rest.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            host, path = DOCKER_HUB, rest
        name, colon, tag = path.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise InvalidReference(f"{text!r}: {tag!r} is no tag")
        if not _HOST.fullmatch(host):
            raise InvalidReference(f"{text!r}: {host!r} is no host of a registry")
        if host in _HUB_NAMES:
            host = DOCKER_HUB
            name = name if "/" in name else f"library/{name}"
        if not _REPOSITORY.fullmatch(name):
            hint = "; repositories have small letters only" if name.lower() != name else ""
            raise InvalidReference(f"{text!r}: {name!r} is no name of a repository{hint}")
        return cls(host, name, tag if colon else None if at else "latest", digest if at else None)

    @property
    def target(self) -> str:
        """What stands in the URL of the manifest: the digest, which goes first, or the tag."""
        return self.digest or self.tag or "latest"

    @property
    def registry_host(self) -> str:
        """The host that serves it."""
        return registry_host(self.host)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def registry_host(host: str) -> str:
    """The host (and port) that serves what is named by `host`: Docker Hub's name is not where it is."""
    return _HUB_HOST if host in _HUB_NAMES else host


def is_host(text: str) -> bool:
    """Whether it is a host, with or without a port."""
    return bool(_HOST.fullmatch(text))


def default_scheme(host: str) -> str:
    """https, but http on this machine, as other clients have it."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name == "localhost":
        return "http"
    try:
        return "http" if ipaddress.ip_address(name.strip("[]")).is_loopback else "https"
    except ValueError:
        return "https"
