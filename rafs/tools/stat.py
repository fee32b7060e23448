"""How well many images share and compress, and what a chunk dictionary would save.

Images share what is in the same blob. The same content in another blob is stored, pulled and kept again,
unless the image is built with a chunk dictionary; that is the saving named here. Bootstraps alone are read.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from rafs.image import Image
from rafs.tools.chunk_use import ChunkUse, Place


@dataclass(frozen=True)
class ImageStat:
    """One image, in the order that was given. Sizes in bytes.

    `new_*` counts what no earlier image has: by place as blobs are now, by content as with a dictionary of
    all earlier images.
    """

    name: str
    version: int
    names: int
    inodes: int
    data_size: int  # of files, hard links once
    chunks: int  # that files have, each as often as it is used
    distinct_chunks: int  # by content
    distinct_size: int  # plain
    stored_size: int  # of all chunks used
    new_stored_size: int
    new_stored_size_with_dictionary: int


@dataclass
class Statistics:
    """All images together; each blob and each content once."""

    images: list[ImageStat] = field(default_factory=list)
    blobs: int = 0
    data_size: int = 0
    stored_size: int = 0
    stored_size_with_dictionary: int = 0

    @property
    def dictionary_saves(self) -> int:
        """Stored bytes that would not be there."""
        return self.stored_size - self.stored_size_with_dictionary


def stat_images(images: Iterable[tuple[str, Image]]) -> Statistics:
    """Look at (name, image) pairs one after the other. Raises RafsError, OSError as reading does."""
    result = Statistics()
    places: set[Place] = set()
    contents: set[bytes] = set()
    blobs: set[str] = set()
    for name, image in images:
        use = ChunkUse(image)
        names = inodes = data_size = chunks = 0
        for file in use.files():
            names += file.names
            inodes += 1
            chunks += sum(place is not None for place in file.chunks)
            data_size += file.inode.size if stat.S_ISREG(file.inode.mode) else 0
        by_content = {cost.content: cost for cost in use.costs.values()}
        new = sum(cost.stored_size for place, cost in use.costs.items() if place not in places)
        new_content = sum(cost.stored_size for key, cost in by_content.items() if key not in contents)
        result.images.append(
            ImageStat(
                name=name,
                version=image.version,
                names=names,
                inodes=inodes,
                data_size=data_size,
                chunks=chunks,
                distinct_chunks=len(by_content),
                distinct_size=sum(cost.size for cost in by_content.values()),
                stored_size=sum(cost.stored_size for cost in use.costs.values()),
                new_stored_size=new,
                new_stored_size_with_dictionary=new_content,
            )
        )
        places.update(use.costs)
        contents.update(by_content)
        blobs.update(place[0] for place in use.costs)
        result.data_size += data_size
        result.stored_size += new
        result.stored_size_with_dictionary += new_content
    result.blobs = len(blobs)
    return result
