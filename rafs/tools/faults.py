"""What `check` finds: where, and what. And words for what the reader raises."""

from __future__ import annotations

import errno
from typing import NamedTuple

from rafs.errors import BlobCorrupt, BlobNotFound, BlobUnavailable, RafsError
from rafs.image import Image

_REASONS = {
    errno.EUCLEAN: "contradicts the format",
    errno.EOPNOTSUPP: "has something that is not known here",
    errno.ENODATA: "is not there",
}


class Fault(NamedTuple):
    """`file` is "bootstrap" or a blob id; `offset` the first byte of what is wrong in it, None if unknown."""

    file: str
    offset: int | None
    path: str  # in the image; "" where it is no file's
    what: str

    def __str__(self) -> str:
        place = self.file if self.offset is None else f"{self.file} byte {self.offset}"
        return f"{place}{f' ({self.path})' if self.path else ''}: {self.what}"


class Faults:
    """Collects; the first `limit` are kept, all are counted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.listed: list[Fault] = []
        self.warnings: list[str] = []
        self.count = 0

    def add(self, file: str, offset: int | None, path: bytes, what: str) -> None:
        what = what.removeprefix(f"blob {file}: ")
        self.count += 1
        if len(self.listed) < self._limit:
            self.listed.append(Fault(file, offset, show(path), what))

    def add_inode(self, image: Image, nid: int, path: bytes, what: str) -> None:
        """A fault of an inode of the bootstrap."""
        try:
            offset: int | None = image.inode_offset(nid)
        except OSError:
            offset = None
        self.add("bootstrap", offset, path, f"inode {nid} {what}")

    def warn(self, what: str) -> None:
        if len(self.warnings) < self._limit:
            self.warnings.append(what)


def raise_if_unreachable(error: Exception) -> None:
    """Raise what is no fault of an image: that its back-end cannot be asked."""
    if isinstance(error, BlobUnavailable) and not isinstance(error, BlobCorrupt | BlobNotFound):
        raise error


def show(path: bytes) -> str:
    """A path for a line of text: what is not printable is escaped, the middle of a long one left out."""
    text = path.decode("utf-8", "backslashreplace")
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text if len(text) <= 300 else f"{text[:150]}...{text[-150:]}"


def reason(error: Exception) -> str:
    """Why the reader gave up, as the end of a sentence about an inode."""
    if isinstance(error, OSError) and not isinstance(error, RafsError):
        return _REASONS.get(error.errno or 0, f"cannot be read: {error.strerror or error}")
    return str(error)
