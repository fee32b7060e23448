"""Bootstraps as input: their trees for merging, their chunks for deduplication.

What is read here goes through the C reader, which checks it. The data blobs themselves are not needed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from native.rafs_v6 import RAFS_FLAG_EXPLICIT_UIDGID
from rafs.build.blob_facts import BlobFacts
from rafs.build.chunks import ChunkStore, chunk_key
from rafs.build.errors import BuildError
from rafs.build.growth import GrowingTree
from rafs.build.tree import Inode, Tree
from rafs.image import Image, ImageError, WholeImage

_MINOR_LOW = 0xFF


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """The image of bootstrap `path`; what is wrong with it, in the block too, becomes a BuildError."""
    try:
        image = Image(path)
    except ImageError as error:
        raise BuildError(str(error)) from None
    except OSError as error:
        raise BuildError(f"cannot read bootstrap {str(path)!r}: {error.strerror}") from error
    try:
        yield image
    except (OSError, ImageError) as error:
        raise BuildError(f"bootstrap {str(path)!r} is damaged: {error}") from error
    finally:
        image.close()


def check_alike(image: Image, path: Path, fs_version: int, chunk_size: int) -> None:
    """All blobs of an image have one chunk size, and are of the kind that its version has."""
    if image.version != fs_version:
        raise BuildError(f"bootstrap {str(path)!r} is RAFS v{image.version}, not v{fs_version}")
    if image.chunk_size != chunk_size:
        raise BuildError(
            f"bootstrap {str(path)!r} has chunks of {image.chunk_size} bytes, not of {chunk_size}; "
            f"build with --chunk-size {image.chunk_size}"
        )


def decode_rdev(rdev: int) -> int:
    """Return the device number behind the kernel's 32-bit encoding (format section 2.7)."""
    return os.makedev(rdev >> 8 & 0xFFF, rdev & _MINOR_LOW | rdev >> 12 & ~_MINOR_LOW)


class _Chunks:
    """The chunks of one image, entered in a ChunkStore when they are asked for."""

    def __init__(self, image: Image, path: Path, chunks: ChunkStore) -> None:
        self._image = image
        self._path = path
        self._chunks = chunks
        self._numbers: dict[int, int] = {}
        self._rows: dict[tuple[int, int], int] = {}
        self._records: dict[tuple[int, int], int] = {}
        for position, record in enumerate(image.chunk_records):
            self._records[record.blob_index, record.chunk_index] = position

    def row(self, blob_index: int, chunk_index: int) -> int:
        row = self._rows.get((blob_index, chunk_index))
        if row is None:
            position = self._records.get((blob_index, chunk_index))
            if position is None:
                raise BuildError(
                    f"bootstrap {str(self._path)!r} has no record of chunk {chunk_index} of blob "
                    f"{blob_index} in its chunk table, so it cannot be merged; build it again"
                )
            row = self._chunks.add_foreign(self._number(blob_index), self._image.chunk_records[position])
            self._rows[blob_index, chunk_index] = row
        return row

    def _number(self, blob_index: int) -> int:
        number = self._numbers.get(blob_index)
        if number is None:
            facts = BlobFacts.parse(self._image.blob_record(blob_index))
            number = self._numbers[blob_index] = self._chunks.add_blob(facts)
        return number


def load_tree(image: Image, path: Path, chunks: ChunkStore) -> Tree:
    """Return the tree of `image`; its chunks are entered in `chunks`. `path` is for messages."""
    if not image.flags & RAFS_FLAG_EXPLICIT_UIDGID:
        raise BuildError(f"bootstrap {str(path)!r} was built without owners; build it with them to merge it")
    rows = _Chunks(image, path, chunks)
    grown = GrowingTree()
    whole = WholeImage(image)
    inodes: dict[int, Inode] = {}

    def load(nid: int, name: bytes) -> Inode:
        raw = image.inode(nid)
        seconds = raw.mtime - (1 << 64) if raw.mtime >= 1 << 63 else raw.mtime
        is_link, is_regular = stat.S_ISLNK(raw.mode), stat.S_ISREG(raw.mode)
        inode = Inode(
            path=name,
            ino=0,
            mode=raw.mode,
            uid=raw.uid,
            gid=raw.gid,
            size=raw.size if is_link or is_regular else 0,
            mtime_ns=seconds * 10**9 + raw.mtime_nsec,
            rdev=decode_rdev(raw.rdev) if stat.S_ISCHR(raw.mode) or stat.S_ISBLK(raw.mode) else 0,
            stamp=(0, 0, 0, 0, 0),
            target=image.readlink(nid) if is_link else b"",
            xattrs=image.xattrs(nid),
        )
        if is_regular:
            for extent in whole.extents(raw):
                if extent.blob_index < 0:
                    raise BuildError(
                        f"bootstrap {str(path)!r}: {name!r} has holes or inline data; build it again"
                    )
                inode.chunks.append(rows.row(extent.blob_index, extent.chunk_index))
        return inode

    root = load(image.root_nid, b"/")
    grown.replace_root(root)
    waiting = [(image.root_nid, root)]
    seen = {image.root_nid}
    while waiting:
        nid, directory = waiting.pop()
        for entry in image.readdir(nid):
            if entry.name in (b".", b".."):
                continue
            inode = inodes.get(entry.nid)
            if inode is None:
                inode = inodes[entry.nid] = load(entry.nid, directory.path.rstrip(b"/") + b"/" + entry.name)
            if inode.is_dir:
                if entry.nid in seen:
                    raise BuildError(f"bootstrap {str(path)!r}: directory {inode.path!r} is in two places")
                seen.add(entry.nid)
                waiting.append((entry.nid, inode))
            grown.put(directory, entry.name, inode)
    return grown.arrange()


class ChunkDictionary:
    """The chunks of other images, which a build refers to and does not store again (format section 8.5).

    Only those with the build's digest algorithm take part. `keys` may be asked from any thread.
    """

    def __init__(self, images: list[Image], digester: int) -> None:
        self._places: dict[bytes, tuple[int, int]] = {}
        self._images = images
        for number, image in enumerate(images):
            fitting = {
                index for index in range(image.blob_count) if image.blob_record(index).digest_algo == digester
            }
            for position, record in enumerate(image.chunk_records):
                if record.blob_index in fitting and any(record.digest):
                    key = chunk_key(record.digest, record.uncompressed_size)
                    self._places.setdefault(key, (number, position))

    @property
    def keys(self) -> Container[bytes]:
        return self._places

    def enter(self, key: bytes, chunks: ChunkStore) -> int | None:
        """Enter the chunk with `key` in `chunks` and return its row; None when no image has it."""
        place = self._places.get(key)
        if place is None:
            return None
        number, position = place
        image = self._images[number]
        record = image.chunk_records[position]
        return chunks.add_foreign(
            chunks.add_blob(BlobFacts.parse(image.blob_record(record.blob_index))), record
        )
