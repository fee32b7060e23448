"""`rafs.Image`: a bootstrap as Python tools see it, by the same C reader that serves guests.

The reader itself is `native.dataplane.Image`; here is what only needs its methods.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from native import dataplane
from native.dataplane import Dirent, Extent, ImageError, Inode

__all__ = ["Dirent", "Extent", "Image", "ImageError", "Inode"]


class Image(dataplane.Image):
    """A RAFS v6 bootstrap; see `native.dataplane.Image` for what each call raises."""

    def resolve(self, path: bytes) -> int:
        """Nid of an absolute path, symlinks not followed. Raises FileNotFoundError, NotADirectoryError."""
        nid = self.root_nid
        for name in path.split(b"/"):
            if name:
                nid = self.lookup(nid, name)
        return nid

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Every path (root first, as b"/") with its inode, parents before children, names in order.

        Each name of a hard link is an entry. Raises OSError(EUCLEAN) on a directory that contains itself.
        """
        pending = [(b"/", self.root_nid, frozenset[int]())]
        while pending:
            path, nid, above = pending.pop()
            inode = self.inode(nid)
            yield path, inode
            if not stat.S_ISDIR(inode.mode):
                continue
            if nid in above:
                raise OSError(117, f"directory {path!r} contains itself")
            children = [entry for entry in self.readdir(nid) if entry.name not in (b".", b"..")]
            for entry in reversed(children):
                pending.append((path.rstrip(b"/") + b"/" + entry.name, entry.nid, above | {nid}))

    def chunk_digests(self, blob_index: int) -> dict[int, bytes]:
        """Chunk index to digest of one blob, out of the chunk table; empty where the image has none."""
        records = (self.chunk_record(index) for index in range(self.chunk_record_count))
        return {r.chunk_index: r.digest for r in records if r.blob_index == blob_index and any(r.digest)}
