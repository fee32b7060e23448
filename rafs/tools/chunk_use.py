"""Which chunks the files of an image have, and what they cost: the ground of `stat` and `diff`.

Out of the bootstrap alone: blobs need not be at hand. A chunk is where it is stored: (blob id, index). Equal
content is told by its digest and size, where the image has digests.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from native.dataplane import Inode
from rafs.errors import ImageCorrupt
from rafs.image import Image, ImageError, WholeImage

#: (blob id, index in the blob)
Place = tuple[str, int]


class Cost(NamedTuple):
    """Of one chunk, in bytes. `content` is digest and size, or the place where there is no digest."""

    stored_size: int
    size: int
    content: bytes


@dataclass(frozen=True)
class File:
    """One inode, by its first path. `chunks` are places, in order; None is a hole or inline data."""

    path: bytes
    inode: Inode
    target: bytes
    xattrs: dict[bytes, bytes]
    chunks: tuple[Place | None, ...]
    names: int


class ChunkUse:
    """What one image has. `costs` has every chunk that a file uses, once."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._whole = WholeImage(image)
        self.blob_ids = [image.blob(index).blob_id for index in range(image.blob_count)]
        self.costs: dict[Place, Cost] = {}
        try:
            records = image.chunk_records
        except ImageError as error:
            raise ImageCorrupt(str(error)) from None
        self._known: dict[Place, Cost] = {}
        for record in records:
            if record.blob_index >= len(self.blob_ids):
                raise ImageCorrupt(f"the chunk table has a chunk of blob {record.blob_index}")
            place = (self.blob_ids[record.blob_index], record.chunk_index)
            content = record.digest + record.uncompressed_size.to_bytes(4, "little")
            if not any(record.digest):
                content = repr(place).encode()
            self._known[place] = Cost(record.compressed_size, record.uncompressed_size, content)

    def files(self) -> Iterator[File]:
        """Yield every inode once, in walking order. `costs` is complete at the end."""
        image = self.image
        names: dict[int, int] = {}
        first: dict[int, tuple[bytes, Inode]] = {}
        for path, inode in image.walk():
            names[inode.nid] = names.get(inode.nid, 0) + 1
            first.setdefault(inode.nid, (path, inode))
        for nid, (path, inode) in first.items():
            is_link = stat.S_ISLNK(inode.mode)
            yield File(
                path=path,
                inode=inode,
                target=image.readlink(nid) if is_link else b"",
                xattrs=image.xattrs(nid),
                chunks=tuple(self._chunks(inode)) if stat.S_ISREG(inode.mode) else (),
                names=names[nid],
            )

    def _chunks(self, inode: Inode) -> Iterator[Place | None]:
        for extent in self._whole.extents(inode):
            if extent.blob_index < 0:
                yield None
                continue
            place = (self.blob_ids[extent.blob_index], extent.chunk_index)
            if place not in self.costs:
                known = self._known.get(place)
                if known is None:
                    raise ImageCorrupt(f"chunk {place[1]} of blob {place[0]} is not in the chunk table")
                self.costs[place] = known
            yield place

    def content(self, place: Place | None) -> bytes:
        """What tells equal content apart from other."""
        return b"" if place is None else self.costs[place].content
