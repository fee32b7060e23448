"""OCI image layouts: a directory with `oci-layout`, `index.json` and `blobs/sha256/HEX`.

Writers take turns by a lock on the directory; a file appears whole or not at all. Everything here blocks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rafs.oci.descriptor import (
    MAX_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    InvalidImage,
    pack_document,
    parse_document,
)

REF_NAME = "org.opencontainers.image.ref.name"
_VERSION = b'{"imageLayoutVersion":"1.0.0"}'
_READ_SIZE = 1 << 20


class Layout:
    """The layout at `folder`. Raises InvalidImage for what is in it and OSError for what cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def is_one(folder: Path) -> bool:
        return (folder / "oci-layout").is_file()

    def blob_path(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def entries(self) -> list[Descriptor]:
        """What `index.json` lists."""
        if not self.is_one(self.folder):
            raise InvalidImage(f"{str(self.folder)!r} is no OCI layout: it has no file oci-layout")
        document = parse_document(self._read_small(self.folder / "index.json"), self._named("index.json"))
        manifests = document.get("manifests")
        if not isinstance(manifests, list):
            raise InvalidImage(f"{self._named('index.json')} has no list of manifests")
        return [Descriptor.parse(one, f"{self._named('index.json')}: entry") for one in manifests]

    def resolve(self, tag: str | None) -> Descriptor:
        """The entry with that tag, or the only one."""
        entries = self.entries()
        names = sorted(
            {str(entry.annotations[REF_NAME]) for entry in entries if REF_NAME in entry.annotations}
        )
        if tag is not None:
            found = [entry for entry in entries if entry.annotations.get(REF_NAME) == tag]
        else:
            found = entries
        if len(found) == 1:
            return found[0]
        said = f"has no image {tag!r}" if tag is not None else f"has {len(entries)} images; name one"
        raise InvalidImage(f"{str(self.folder)!r} {said}" + (f" ({', '.join(names)})" if names else ""))

    def read(self, descriptor: Descriptor) -> bytes:
        """The content of a manifest, an index or a configuration, verified."""
        content = self._read_small(self.blob_path(descriptor.digest))
        actual = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if actual != descriptor.digest:
            raise InvalidImage(f"{self._named(descriptor.digest)} is damaged: its digest is {actual}")
        return content

    def check(self, descriptor: Descriptor) -> Path:
        """The file of a blob; its bytes are verified."""
        path = self.blob_path(descriptor.digest)
        digest = hashlib.sha256()
        size = 0
        try:
            with path.open("rb") as file:
                while data := file.read(_READ_SIZE):
                    digest.update(data)
                    size += len(data)
        except FileNotFoundError:
            raise InvalidImage(f"{str(self.folder)!r} has no blob {descriptor.digest}") from None
        if size != descriptor.size or digest.hexdigest() != descriptor.hex:
            raise InvalidImage(f"{self._named(descriptor.digest)} is damaged: {size} bytes of another digest")
        return path

    def _read_small(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_DOCUMENT + 1)
        except FileNotFoundError:
            raise InvalidImage(f"{str(self.folder)!r} lacks {path.relative_to(self.folder)}") from None
        if len(content) > MAX_DOCUMENT:
            raise InvalidImage(f"{str(path)!r} is larger than the {MAX_DOCUMENT} bytes of any manifest")
        return content

    def _named(self, what: str) -> str:
        return f"{what} of {str(self.folder)!r}"

    # writing

    def create(self) -> None:
        """Make an empty layout where there is none."""
        (self.folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self.is_one(self.folder):
                self._replace(self.folder / "index.json", pack_document(_index([])))
                self._replace(self.folder / "oci-layout", _VERSION)

    def has(self, digest: str) -> bool:
        return self.blob_path(digest).is_file()

    def put(self, descriptor: Descriptor, source: Path | bytes) -> None:
        """Add a blob whose bytes are known to fit."""
        target = self.blob_path(descriptor.digest)
        if isinstance(source, bytes):
            self._replace(target, source)
            return
        fresh = target.with_name(f".new-{secrets.token_hex(8)}")
        try:
            try:
                os.link(source, fresh)
            except OSError:  # another file system
                shutil.copyfile(source, fresh)
            _sync(fresh)
            fresh.rename(target)
        finally:
            fresh.unlink(missing_ok=True)

    def list(self, descriptor: Descriptor, tag: str | None) -> None:
        """Put a manifest or an index into `index.json`; the tag moves to it."""
        entry = descriptor
        if tag is not None:
            entry = entry.but(annotations={**descriptor.annotations, REF_NAME: tag})
        with self._locked():
            kept = [
                one
                for one in self.entries()
                if (one.annotations.get(REF_NAME) != tag if tag is not None else True) and one != entry
            ]
            self._replace(self.folder / "index.json", pack_document(_index([*kept, entry])))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _replace(self, path: Path, content: bytes) -> None:
        fresh = path.with_name(f".new-{secrets.token_hex(8)}")
        try:
            fresh.write_bytes(content)
            _sync(fresh)
            fresh.rename(path)
        finally:
            with suppress(FileNotFoundError):
                fresh.unlink()


def _index(manifests: list[Descriptor]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [one.document() for one in manifests],
    }


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
