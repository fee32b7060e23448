"""The digest tree of RAFS v5 (format specification, 4.7): of data, symlinks, and what is in a directory."""

from __future__ import annotations

import stat
from contextlib import suppress

from native.rafs_v6 import RAFS_FLAG_DIGEST_SHA256
from rafs.codec import chunk_digest
from rafs.codes import Digester
from rafs.errors import RafsError
from rafs.filesystem import Filesystem
from rafs.image import WholeImage
from rafs.tools.check_tree import TreeCheck
from rafs.tools.faults import Faults


def check_digests(filesystem: Filesystem, tree: TreeCheck, faults: Faults) -> None:
    """Compare the digest of each inode with what it has. What cannot be read is left to those who said so."""
    image = filesystem.image
    digester = Digester.SHA256 if image.flags & RAFS_FLAG_DIGEST_SHA256 else Digester.BLAKE3
    whole = WholeImage(image)
    for nid in reversed([image.root_nid, *tree.first_names]):  # a fault inside before its directory's
        with suppress(OSError, RafsError):
            stored = image.inode_digest(nid)
            if stored != chunk_digest(_content(filesystem, whole, nid), digester):
                faults.add_inode(image, nid, tree.path_of(nid), "has a digest that is not its content's")


def _content(filesystem: Filesystem, whole: WholeImage, nid: int) -> bytes:
    image = filesystem.image
    inode = image.inode(nid)
    if stat.S_ISLNK(inode.mode):
        return image.readlink(nid)
    if stat.S_ISREG(inode.mode):
        extents = [e for e in whole.extents(inode) if e.blob_index >= 0]
        return b"".join(filesystem.blob(e.blob_index).digest(e.chunk_index) or b"" for e in extents)
    if stat.S_ISDIR(inode.mode):
        children = (entry.nid for entry in image.readdir(nid) if entry.name not in (b".", b".."))
        return b"".join(image.inode_digest(child) or b"" for child in children)
    return b""
