"""`rafs.Image`: a bootstrap as Python tools see it, by the same C reader that serves guests.

The reader itself is `native.dataplane.Image`; here is what only needs its methods.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from native import dataplane
from native.dataplane import CHUNK_RECORD, Dirent, Extent, ImageError, Inode
from rafs.blob_record import BlobRecord
from rafs.chunk_table import BootstrapChunks, check_chunks

__all__ = ["Dirent", "Extent", "Image", "ImageError", "Inode", "WholeImage"]

#: far more than Linux takes in one call; it bounds what a chain of directories costs
MAX_PATH = 32768
#: a dirent of v6 and a name of one byte; those of v5 are larger
_SMALLEST_ENTRY = 13
#: a chunk index of v6
_SMALLEST_EXTENT = 8


class ChunkRecords:
    """Parsed `struct rafs_chunk_record`s, made when they are asked for, as there may be millions."""

    def __init__(self, count: int, get: Callable[[int], Any]) -> None:
        self._count = count
        self._get = get

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._get(index)

    def __iter__(self) -> Iterator[Any]:
        return map(self._get, range(self._count))


class WholeImage:
    """Extents of all files of an image, each asked for once: no more than it has room for.

    An image may lie that many files have the same long list of chunks; whoever looks at all of them would
    never come to an end.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._left = image.size // _SMALLEST_EXTENT

    def extents(self, inode: Inode) -> Iterator[Extent]:
        """Yield the pieces of a regular file. Raises OSError(EUCLEAN) when there are too many."""
        for extent in self._image.extents(inode.nid, 0, inode.size):
            self._left -= 1
            if self._left < 0:
                raise OSError(errno.EUCLEAN, "files have more chunk records than fit the image")
            yield extent


#: of blob_index in a chunk record
_BLOB_INDEX_AT = 32


class Image(dataplane.Image):
    """A RAFS bootstrap; see `native.dataplane.Image` for what each call raises."""

    def resolve(self, path: bytes) -> int:
        """Nid of an absolute path, symlinks not followed. Raises FileNotFoundError, NotADirectoryError."""
        nid = self.root_nid
        for name in path.split(b"/"):
            if name:
                nid = self.lookup(nid, name)
        return nid

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Every path (root first, as b"/") with its inode, parents before children, names in order.

        Each name of a hard link is an entry. Raises OSError(EUCLEAN) on a directory that has two names, or
        more entries than there is room for, and OSError(ENAMETOOLONG) on a path over MAX_PATH bytes.
        """
        room = self.size // _SMALLEST_ENTRY
        directories: set[int] = set()
        pending = [(b"/", b"", self.root_nid)]  # (folder, name, nid): paths are made when their turn comes
        while pending:
            above, name, nid = pending.pop()
            path = above + name
            inode = self.inode(nid)
            yield path, inode
            if not stat.S_ISDIR(inode.mode):
                continue
            if nid in directories:
                raise OSError(errno.EUCLEAN, f"directory {path[:100]!r} has another name too")
            directories.add(nid)
            if len(path) > MAX_PATH:
                raise OSError(errno.ENAMETOOLONG, f"the path {path[:100]!r}... has over {MAX_PATH} bytes")
            folder = path if path == b"/" else path + b"/"
            children = []
            for entry in self.readdir(nid):
                if entry.name not in (b".", b".."):
                    children.append((folder, entry.name, entry.nid))
                    room -= 1
                    if room < 0:
                        raise OSError(errno.EUCLEAN, f"directory {path[:100]!r} has entries of others too")
            pending += reversed(children)

    def blob(self, index: int) -> BlobRecord:
        """Entry `index` of the blob table, checked. Raises ImageCorrupt, ImageUnsupported, IndexError."""
        return BlobRecord.parse(self.blob_record(index), fs_version=self.version)

    def bootstrap_chunks(self, index: int) -> BootstrapChunks | dict[int, bytes] | None:
        """What only the bootstrap says about the chunks of blob `index`, for `BlobStore.open_blob`.

        v5: their records. v6: their digests, or None where the blob has those itself. Takes a while in a
        large image. Raises ImageError, ImageCorrupt.
        """
        record = self.blob(index)
        if self.version == 5:
            chunks = BootstrapChunks(self.chunk_list(index))
            check_chunks(record, chunks)
            return chunks
        return None if record.has_vouched_digests else self.chunk_digests(index)

    @cached_property
    def chunk_records(self) -> ChunkRecords:
        """The records of all chunks that files have: v6's chunk table, or gathered from v5's inodes.

        Raises ImageError where v5's contradict each other.
        """
        if self.version == 6:
            return ChunkRecords(self.chunk_record_count, self.chunk_record)
        lists = [(index, self.chunk_list(index)) for index in range(self.blob_count)]
        table = bytearray(b"".join(records for _, records in lists))
        at = 0
        for index, records in lists:
            for _ in range(0, len(records), CHUNK_RECORD.size):
                table[at + _BLOB_INDEX_AT : at + _BLOB_INDEX_AT + 4] = index.to_bytes(4, "little")
                at += CHUNK_RECORD.size
        parse = CHUNK_RECORD.parse
        return ChunkRecords(at // CHUNK_RECORD.size, lambda index: parse(table, index * CHUNK_RECORD.size))

    def chunk_digests(self, blob_index: int) -> dict[int, bytes]:
        """v6: chunk index to digest of one blob, out of the chunk table; empty where the image has none."""
        records = (self.chunk_record(index) for index in range(self.chunk_record_count))
        return {r.chunk_index: r.digest for r in records if r.blob_index == blob_index and any(r.digest)}
