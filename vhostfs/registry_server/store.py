"""The directory of a registry: content by digest, as in an OCI layout, and which repository has what.

    blobs/sha256/HEX                        all content, once
    repositories/NAME/_blobs/HEX            empty: the repository has this blob
    repositories/NAME/_manifests/HEX        its media type
    repositories/NAME/_tags/TAG             the digest
    repositories/NAME/_referrers/HEX/HEX    empty: the latter manifest has the former as subject
    uploads/                                begun and not ended

Names of repositories have no underscore at the start of a part, so the folders cannot meet. Files appear
whole. At the start, uploads go, and content that nothing links. Everything here blocks; the server calls it
in threads.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rafs.errors import RafsError
from rafs.oci.descriptor import sha256_digest

NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
MAX_NAME = 255
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class StoreError(RafsError):
    """The directory cannot be used; the text says why."""


class Store:
    """What is stored. Names, tags and digests that come in are valid; see the patterns above."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreError when the directory cannot be used, or another server uses it."""
        self._content = folder / "blobs" / "sha256"
        self._repositories = folder / "repositories"
        self.uploads = folder / "uploads"
        try:
            for path in (self._content, self._repositories, self.uploads):
                path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"{str(folder)!r} is served by another process; stop that first") from None
            for left in self.uploads.iterdir():
                left.unlink()
            self._remove_unlinked()
        except OSError as error:
            raise StoreError(f"{error.filename!r}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._lock)

    # content

    def content(self, digest: str) -> Path:
        return self._content / digest.removeprefix("sha256:")

    def take(self, source: Path, digest: str) -> None:
        """Let the file `source`, which has that digest, become content."""
        _sync(source)
        source.rename(self.content(digest))

    def put(self, content: bytes) -> str:
        """Store `content`; return its digest."""
        digest = sha256_digest(content)
        if not self.content(digest).exists():
            self._write(self.content(digest), content)
        return digest

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.uploads / f"new-{secrets.token_hex(8)}"
        fresh.write_bytes(content)
        _sync(fresh)
        fresh.rename(path)

    # blobs of a repository

    def has_blob(self, name: str, digest: str) -> bool:
        """Manifests are blobs too."""
        return self._linked(name, digest) and self.content(digest).exists()

    def _linked(self, name: str, digest: str) -> bool:
        hex_ = digest.removeprefix("sha256:")
        folder = self._repositories / name
        return (folder / "_blobs" / hex_).exists() or (folder / "_manifests" / hex_).exists()

    def link_blob(self, name: str, digest: str) -> None:
        link = self._repositories / name / "_blobs" / digest.removeprefix("sha256:")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.touch()

    def delete_blob(self, name: str, digest: str) -> bool:
        """Whether it was there."""
        link = self._repositories / name / "_blobs" / digest.removeprefix("sha256:")
        try:
            link.unlink()
        except FileNotFoundError:
            return False
        self._collect(digest)
        return True

    def _remove_unlinked(self) -> None:
        """Remove content that was stored and not linked before the last server ended."""
        linked: set[str] = set()
        for name in self.names():
            for part in ("_blobs", "_manifests"):
                with suppress(FileNotFoundError):
                    linked.update(os.listdir(self._repositories / name / part))  # noqa: PTH208 (names only)
        for path in self._content.iterdir():
            if path.name not in linked:
                path.unlink()

    def _collect(self, digest: str) -> None:
        """Remove content that no repository has any more."""
        if not any(self._linked(name, digest) for name in self.names()):
            self.content(digest).unlink(missing_ok=True)

    # manifests

    def put_manifest(
        self, name: str, content: bytes, media_type: str, tag: str | None, subject: str | None
    ) -> str:
        """Store a manifest; return its digest."""
        digest = self.put(content)
        hex_ = digest.removeprefix("sha256:")
        folder = self._repositories / name
        self._write(folder / "_manifests" / hex_, media_type.encode())
        if subject:
            link = folder / "_referrers" / subject.removeprefix("sha256:") / hex_
            link.parent.mkdir(parents=True, exist_ok=True)
            link.touch()
        if tag:
            self._write(folder / "_tags" / tag, digest.encode())
        return digest

    def find_manifest(self, name: str, reference: str) -> tuple[str, str, bytes] | None:
        """(digest, media type, content) of a tag or digest."""
        folder = self._repositories / name
        try:
            digest = reference if ":" in reference else (folder / "_tags" / reference).read_text()
            hex_ = digest.removeprefix("sha256:")
            media_type = (folder / "_manifests" / hex_).read_text()
            return digest, media_type, self.content(digest).read_bytes()
        except FileNotFoundError:
            return None

    def delete_manifest(self, name: str, reference: str) -> bool:
        """Delete a tag, or a manifest with all tags that it has; whether it was there."""
        folder = self._repositories / name
        if ":" not in reference:
            try:
                (folder / "_tags" / reference).unlink()
            except FileNotFoundError:
                return False
            return True
        hex_ = reference.removeprefix("sha256:")
        try:
            (folder / "_manifests" / hex_).unlink()
        except FileNotFoundError:
            return False
        for tag in self.tags(name):
            with suppress(FileNotFoundError):
                if (folder / "_tags" / tag).read_text() == reference:
                    (folder / "_tags" / tag).unlink()
        for link in (folder / "_referrers").glob(f"*/{hex_}"):
            link.unlink(missing_ok=True)
        self._collect(reference)
        return True

    def referrers(self, name: str, subject: str) -> list[tuple[str, str, bytes]]:
        """(digest, media type, content) of the manifests that have `subject`."""
        folder = self._repositories / name / "_referrers" / subject.removeprefix("sha256:")
        if not folder.is_dir():
            return []
        found = (self.find_manifest(name, f"sha256:{link.name}") for link in sorted(folder.iterdir()))
        return [manifest for manifest in found if manifest is not None]

    # lists

    def has_repository(self, name: str) -> bool:
        return any((self._repositories / name / part).is_dir() for part in ("_manifests", "_blobs"))

    def tags(self, name: str) -> list[str]:
        folder = self._repositories / name / "_tags"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def names(self) -> Iterator[str]:
        """All repositories, by name."""
        for path, folders, _ in os.walk(self._repositories):
            if "_manifests" in folders or "_blobs" in folders:
                yield str(Path(path).relative_to(self._repositories))
            folders[:] = sorted(folder for folder in folders if not folder.startswith("_"))

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._content).free


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
