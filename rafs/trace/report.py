"""A trace for people: the files of an image in the order in which they were first read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rafs.image import Image
from rafs.trace.format import Access, Trace


@dataclass
class FileReads:
    """What a trace has of one file. `path` is None where the image has no such file; sizes in bytes."""

    nid: int
    path: bytes | None
    size: int
    accesses: list[Access] = field(default_factory=list)

    @property
    def first_ns(self) -> int:
        return self.accesses[0].time_ns

    @property
    def asked_bytes(self) -> int:
        """Bytes asked for by the first reads of its chunks."""
        return sum(access.length for access in self.accesses)

    @property
    def missed(self) -> int:
        """Chunks that their first reader had to wait for."""
        return sum(access.missed for access in self.accesses)


def files_of(trace: Trace, image: Image | None) -> list[FileReads]:
    """The files of a trace by first access; without an image, without paths."""
    files: dict[int, FileReads] = {}
    for access in trace.accesses:
        if access.nid not in files:
            files[access.nid] = FileReads(access.nid, None, 0)
        files[access.nid].accesses.append(access)
    if image is not None:
        for path, nid, size in _paths(image, files):
            if files[nid].path is None:
                files[nid].path, files[nid].size = path, size
    return list(files.values())


def _paths(image: Image, wanted: Iterable[int]) -> Iterable[tuple[bytes, int, int]]:
    nids = set(wanted)
    for path, inode in image.walk():
        if inode.nid in nids:
            yield path, inode.nid, inode.size
