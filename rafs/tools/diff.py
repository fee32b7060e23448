"""What changes from one image to another: files, and the bytes that a node which has the first must pull.

A node keeps chunks by the blob they are in. So what a roll-out pulls are the chunks of the new image at
places that the old one does not use; of these, `repeated` are such whose content the old image has in another
blob, which a build with the old one as chunk dictionary would not have stored again. Bootstraps alone are
read; file data is compared by chunk digests, or by place where chunk sizes or digest algorithms differ.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from native.dataplane import Inode
from native.rafs_v6 import RAFS_FLAG_DIGEST_SHA256
from rafs.image import Image
from rafs.tools.chunk_use import ChunkUse, File, Place


@dataclass(frozen=True)
class Change:
    """A path that differs. `what` is among "added", "removed", "data", "type", "attributes".

    `pulled`: stored bytes of its chunks that are new, each counted at the first file that has it.
    """

    path: bytes
    what: str
    size: int
    pulled: int


@dataclass
class Difference:
    """Sizes in bytes, as they are stored in blobs unless said otherwise."""

    changes: list[Change] = field(default_factory=list)
    pulled_size: int = 0  # by a node that has all of the old image
    pulled_chunks: int = 0
    pulled_plain_size: int = 0  # the same, uncompressed
    repeated_size: int = 0  # of these: the old image has the content, in another blob
    image_size: int = 0  # all chunks that the new image uses
    bootstrap_size: int = 0  # of the new image; pulled in any case
    unchanged: int = 0  # names
    new_blobs: list[str] = field(default_factory=list)


def diff_images(old: Image, new: Image) -> Difference:
    """Compare two images. Raises RafsError, OSError as reading does."""
    result = Difference(bootstrap_size=new.size)
    before, after = ChunkUse(old), ChunkUse(new)
    old_files = {file.path: file for file in before.files()}
    old_contents = {cost.content for cost in before.costs.values()}
    is_comparable = old.chunk_size == new.chunk_size and not (old.flags ^ new.flags) & RAFS_FLAG_DIGEST_SHA256
    counted: set[Place] = set()
    for file in after.files():
        pulled = 0
        for place in file.chunks:
            if place is None or place in before.costs or place in counted:
                continue
            counted.add(place)
            cost = after.costs[place]
            pulled += cost.stored_size
            result.pulled_chunks += 1
            result.pulled_plain_size += cost.size
            if cost.content in old_contents:
                result.repeated_size += cost.stored_size
        result.pulled_size += pulled
        what = _compare(old_files.pop(file.path, None), file, before, after, is_comparable)
        if what:
            result.changes.append(Change(file.path, what, file.inode.size, pulled))
        else:
            result.unchanged += 1
    for file in old_files.values():
        result.changes.append(Change(file.path, "removed", file.inode.size, 0))
    result.changes.sort(key=lambda change: change.path)
    result.image_size = sum(cost.stored_size for cost in after.costs.values())
    result.new_blobs = [blob for blob in after.blob_ids if blob not in before.blob_ids]
    return result


def _compare(old: File | None, new: File, before: ChunkUse, after: ChunkUse, is_comparable: bool) -> str:
    if old is None:
        return "added"
    if stat.S_IFMT(old.inode.mode) != stat.S_IFMT(new.inode.mode):
        return "type"
    if stat.S_ISREG(new.inode.mode):
        if is_comparable:
            same = list(map(before.content, old.chunks)) == list(map(after.content, new.chunks))
        else:
            same = old.chunks == new.chunks
        if not same or old.inode.size != new.inode.size:
            return "data"
    if old.target != new.target or old.inode.rdev != new.inode.rdev:
        return "data"
    if _attributes(old.inode) != _attributes(new.inode) or old.xattrs != new.xattrs or old.names != new.names:
        return "attributes"
    return ""


def _attributes(inode: Inode) -> tuple[int, ...]:
    return inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_nsec
