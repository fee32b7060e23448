"""RAFS v5: the other bootstrap, of the same tree, and its plainer blob (format specification, section 4).

All names have records in one table, which number them: the root is 1, then for each directory all its
children in a row, then its sub-directories in the same way. An inode's number is that of its first name;
other names of a hard link have records that repeat it. A file's record carries its chunks, so a blob is chunk
data and nothing else.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from native.rafs_v5 import (
    RAFS_V5_ALIGNMENT,
    RAFS_V5_INODE_HARDLINK,
    RAFS_V5_INODE_SYMLINK,
    RAFS_V5_INODE_XATTR,
    RAFS_V5_SUPER_MAGIC,
    RAFS_V5_SUPER_SIZE,
    RAFS_V5_VERSION,
)
from native.rafs_v6 import RAFS_BLOB_CAP_TAR_TOC, RAFS_CODEC_NONE, RAFS_FLAG_HAS_XATTR
from native.records import Record
from rafs.build.blob import BlobWriter
from rafs.build.blob_facts import BlobFacts
from rafs.build.bootstrap import encode_rdev
from rafs.build.chunks import BlobTable, ChunkStore
from rafs.build.errors import BuildError
from rafs.build.tree import Inode, Tree
from rafs.build.xattrs import check_xattrs

#: what our reader takes; the format could have twice as much
MAX_SIZE = 1 << 30
_SUPER = Record("rafs_v5_super_block")
_BLOB_HEAD = Record("rafs_v5_blob_head")
_EXTENDED_BLOB = Record("rafs_v5_extended_blob")
_INODE = Record("rafs_v5_inode")
_DIRECTORY_BLOCK = 4096
_NAME_OVERHEAD = 8

Digest = Callable[[bytes], bytes]


class V5BlobWriter(BlobWriter):
    """A blob that is its chunks."""

    alignment = 1

    def finish(self, chunks: ChunkStore) -> BlobFacts:
        """The blob is complete."""
        self._flush()
        return BlobFacts(
            blob_id=self._sha256.hexdigest(),
            size=self.offset,
            uncompressed_size=chunks.uncompressed_size,
            chunk_count=chunks.own_count,
            compressor=self._compressor.code,
            digester=self._digester.code,
            features=RAFS_BLOB_CAP_TAR_TOC,
            ci_compressor=RAFS_CODEC_NONE,
            ci_offset=0,
            ci_stored_size=0,
            ci_size=0,
            toc_size=0,
            toc_digest=bytes(32),
        )


@dataclass(slots=True)
class _Name:
    """One record: `index` counts from 1, `parent` is its directory's number (0: it is the root)."""

    index: int
    name: bytes
    inode: Inode
    parent: int


class _Numbers:
    """Which number each name and inode has."""

    def __init__(self, tree: Tree) -> None:
        self.names = [_Name(1, b"/", tree.root, 0)]
        self.ino = [0] * (len(tree.inodes) + 1)  # by Inode.ino
        self.first_child = [0] * (len(tree.inodes) + 1)
        self.ino[tree.root.ino] = 1
        waiting = [tree.root]
        while waiting:
            directory = waiting.pop()
            self.first_child[directory.ino] = len(self.names) + 1
            for name, child in directory.children:
                index = len(self.names) + 1
                self.ino[child.ino] = self.ino[child.ino] or index
                self.names.append(_Name(index, name, child, self.ino[directory.ino]))
            waiting.extend(child for _, child in reversed(directory.children) if child.is_dir)


def pack_v5(
    tree: Tree,
    chunks: ChunkStore,
    table: BlobTable,
    *,
    flags: int,
    chunk_size: int,
    digest: Digest,
    prefetch: Sequence[Inode] = (),
) -> bytes:
    """Return the whole file; arguments as of `bootstrap.pack_bootstrap`, and the `digest` of the image."""
    codes = {(blob.compressor, blob.digester) for blob in table.facts}
    if len(codes) > 1:
        raise BuildError(
            "the blobs differ in compressor or digester, and a v5 image has one of each; build all alike"
        )
    numbers = _Numbers(tree)
    digests = _digest_inodes(tree, chunks, digest)
    table_end = RAFS_V5_SUPER_SIZE + _padded(4 * len(numbers.names))
    prefetched = _pad(b"".join(numbers.ino[inode.ino].to_bytes(4, "little") for inode in prefetch))
    blob_table = _pad(b"\0".join(_BLOB_HEAD.pack() + blob.blob_id.encode() for blob in table.facts))
    extended = b"".join(
        _EXTENDED_BLOB.pack(
            chunk_count=blob.chunk_count,
            features=blob.features,
            uncompressed_size=blob.uncompressed_size,
            compressed_size=blob.size,
        )
        for blob in table.facts
    )
    at = table_end + len(prefetched) + len(blob_table) + len(extended)
    places, records = [], []
    for name in numbers.names:
        record = _pack_record(name, numbers, digests, chunks, table, chunk_size)
        places.append(at // RAFS_V5_ALIGNMENT)
        records.append(record)
        at += len(record)
        if at > MAX_SIZE:
            raise BuildError(f"the metadata takes more than {MAX_SIZE} bytes; split the image into layers")
    if any(inode.xattrs for inode in tree.inodes):
        flags |= RAFS_FLAG_HAS_XATTR
    superblock = _SUPER.pack(
        magic=RAFS_V5_SUPER_MAGIC,
        version=RAFS_V5_VERSION,
        super_size=RAFS_V5_SUPER_SIZE,
        chunk_size=chunk_size,
        flags=flags,
        inodes=len(tree.inodes),
        inode_table_offset=RAFS_V5_SUPER_SIZE,
        prefetch_table_offset=table_end,
        blob_table_offset=table_end + len(prefetched),
        inode_table_entries=len(places),
        prefetch_table_entries=len(prefetch),
        blob_table_size=len(blob_table),
        extended_blob_table_entries=len(table.facts),
        extended_blob_table_offset=table_end + len(prefetched) + len(blob_table),
    )
    inode_table = _pad(b"".join(place.to_bytes(4, "little") for place in places))
    return b"".join([superblock, inode_table, prefetched, blob_table, extended, *records])


def _padded(size: int) -> int:
    return (size + RAFS_V5_ALIGNMENT - 1) & -RAFS_V5_ALIGNMENT


def _pad(data: bytes) -> bytes:
    return data.ljust(_padded(len(data)), b"\0")


def _digest_inodes(tree: Tree, chunks: ChunkStore, digest: Digest) -> list[bytes]:
    """The digest of each inode, by Inode.ino (format section 4.7); children come before their directory."""
    digests = [b""] * (len(tree.inodes) + 1)
    for inode in reversed(tree.inodes):
        if not inode.is_dir:
            digests[inode.ino] = digest(
                chunks.pack_digests_of(inode.chunks) if inode.is_regular else inode.target
            )
    for inode in reversed(tree.inodes):
        if inode.is_dir:
            digests[inode.ino] = digest(b"".join(digests[child.ino] for _, child in inode.children))
    return digests


def _pack_record(
    name: _Name,
    numbers: _Numbers,
    digests: list[bytes],
    chunks: ChunkStore,
    table: BlobTable,
    chunk_size: int,
) -> bytes:
    inode = name.inode
    xattrs = _pack_xattrs(inode)
    seconds, nanoseconds = divmod(inode.mtime_ns, 10**9)
    is_link = stat.S_ISLNK(inode.mode)
    flags = RAFS_V5_INODE_SYMLINK if is_link else 0
    if inode.nlink > 1 and not inode.is_dir:
        flags |= RAFS_V5_INODE_HARDLINK
    if xattrs:
        flags |= RAFS_V5_INODE_XATTR
    size = inode.size
    if inode.is_dir:
        listed = sum(len(child) + _NAME_OVERHEAD for child, _ in inode.children)
        size = max(-(-listed // _DIRECTORY_BLOCK), 1) * _DIRECTORY_BLOCK
    head = _INODE.pack(
        digest=digests[inode.ino],
        parent=name.parent,
        ino=numbers.ino[inode.ino],
        uid=inode.uid,
        gid=inode.gid,
        mode=inode.mode,
        size=size,
        blocks=-(-size // 512),
        flags=flags,
        nlink=inode.nlink,
        child_index=numbers.first_child[inode.ino],
        child_count=len(inode.children) if inode.is_dir else len(inode.chunks),
        name_size=len(name.name),
        symlink_size=len(inode.target) if is_link else 0,
        rdev=encode_rdev(inode.rdev),
        mtime=seconds & 0xFFFFFFFFFFFFFFFF,  # before 1970: two's complement
        mtime_nsec=nanoseconds,
    )
    records = chunks.pack_records(inode.chunks, table, chunk_size)
    return b"".join([head, _pad(name.name), _pad(inode.target), xattrs, records])


def _pack_xattrs(inode: Inode) -> bytes:
    """Attributes by name: their size, then each with a length of its own; b"" if there are none."""
    if not inode.xattrs:
        return b""
    check_xattrs(inode.xattrs, inode.path)
    area = b"".join(
        (len(name) + 1 + len(value)).to_bytes(4, "little") + name + b"\0" + value
        for name, value in sorted(inode.xattrs.items())
    )
    return _pad(len(area).to_bytes(8, "little") + area)
