"""The bootstrap: superblocks, device slots, the tables, and the metadata that `layout` placed.

Everything is a function of the tree, its chunks and the blobs they lie in (format sections 2.1 to 2.8, 2.12).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from itertools import pairwise

from native.rafs_v6 import (
    EROFS_CHUNK_FORMAT_INDEXES,
    EROFS_COMPAT_RAFS_V6,
    EROFS_INCOMPAT_CHUNKED_FILE,
    EROFS_INCOMPAT_DEVICE_TABLE,
    EROFS_LAYOUT_FLAT_INLINE,
    EROFS_SUPER_MAGIC,
    EROFS_SUPER_OFFSET,
    RAFS_BLOB_INLINED_CHUNK_DIGEST,
    RAFS_FLAG_ENCRYPTION_AES,
    RAFS_FLAG_ENCRYPTION_NONE,
    RAFS_FLAG_HAS_XATTR,
    RAFS_FLAG_INLINED_CHUNK_DIGEST,
    RAFS_V6_SUPER_OFFSET,
)
from native.records import Record
from rafs.build.chunks import ALIGNMENT as BLOCK
from rafs.build.chunks import BlobTable, ChunkStore, align
from rafs.build.dirents import Entry, pack_directory
from rafs.build.errors import BuildError
from rafs.build.layout import INODE_SIZE, Placement, chunk_indexes_at, place
from rafs.build.tree import Inode, Tree
from rafs.build.xattrs import icount, pack_xattrs

_BLOCK_BITS = BLOCK.bit_length() - 1
_FLATTENED_ALIGNMENT = 0x80000
_MAX_EXTENT_BITS = 31
_EXTENDED = 1  # bit 0 of i_format

_SUPER = Record("erofs_super_block")
_RAFS_SUPER = Record("rafs_v6_super_block")
_SLOT = Record("erofs_device_slot")
_BLOB_SIZE = Record("rafs_v6_blob").size
_PREFETCH_NID_SIZE = 4
_INODE = Record("erofs_inode_extended")
_DEVICE_TABLE = RAFS_V6_SUPER_OFFSET + _RAFS_SUPER.size


def encode_rdev(rdev: int) -> int:
    """Return a device number as the kernel's 32-bit encoding (format section 2.7)."""
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def chunk_format(inode: Inode, chunks: ChunkStore, chunk_size: int) -> int:
    """Return the inode's chunk format: one large extent when its chunks lie in a row (format section 2.8)."""
    extent_bits = chunk_size.bit_length() - 1
    places = [(chunks.blob(chunk), chunks.offset(chunk)) for chunk in inode.chunks]
    in_a_row = all((blob, offset + chunk_size) == after for (blob, offset), after in pairwise(places))
    if len(places) > 1 and in_a_row:
        extent_bits = (inode.size - 1).bit_length()
    return EROFS_CHUNK_FORMAT_INDEXES | min(extent_bits - _BLOCK_BITS, _MAX_EXTENT_BITS)


class _Metadata:
    """Writes each inode at its place in the whole file, which starts `start` bytes before nid 0."""

    def __init__(
        self,
        image: bytearray,
        start: int,
        tree: Tree,
        placements: list[Placement],
        chunks: ChunkStore,
        table: BlobTable,
        chunk_size: int,
    ) -> None:
        self._image = image
        self._start = start
        self._tree = tree
        self._placements = placements
        self._chunks = chunks
        self._table = table
        self._chunk_size = chunk_size

    def _nid(self, inode: Inode) -> int:
        return self._placements[inode.ino - 1].nid

    def _entries(self, directory: Inode) -> list[Entry]:
        parent = directory.parent or directory
        named = [(name, self._nid(inode), inode.mode) for name, inode in directory.children]
        return sorted(
            [(b".", self._nid(directory), directory.mode), (b"..", self._nid(parent), parent.mode), *named]
        )

    def write(self, inode: Inode) -> None:
        place = self._placements[inode.ino - 1]
        at = self._start + place.offset
        xattrs = pack_xattrs(inode.xattrs, inode.path)
        seconds, nanoseconds = divmod(inode.mtime_ns, 10**9)
        if inode.is_regular:
            u = chunk_format(inode, self._chunks, self._chunk_size)
            self._put(
                at + chunk_indexes_at(len(xattrs)), self._chunks.pack_indexes(inode.chunks, self._table)
            )
        elif inode.is_dir or stat.S_ISLNK(inode.mode):
            data = pack_directory(self._entries(inode)) if inode.is_dir else inode.target
            u = self._put_data(place, at + INODE_SIZE + len(xattrs), data)
        else:
            u = encode_rdev(inode.rdev)
        head = _INODE.pack(
            format=place.layout << 1 | _EXTENDED,
            xattr_icount=icount(xattrs),
            mode=inode.mode,
            size=place.size,
            u=u,
            ino=inode.ino,
            uid=inode.uid,
            gid=inode.gid,
            mtime=seconds & 0xFFFFFFFFFFFFFFFF,  # before 1970: two's complement
            mtime_nsec=nanoseconds,
            nlink=inode.nlink,
        )
        self._put(at, head + xattrs)

    def _put(self, at: int, data: bytes) -> None:
        self._image[at : at + len(data)] = data

    def _put_data(self, place: Placement, inline_at: int, data: bytes) -> int:
        """Write the data of a directory or symlink; return the inode's u."""
        inline_size = len(data) % BLOCK if place.layout == EROFS_LAYOUT_FLAT_INLINE else 0
        blocks, inline = data[: len(data) - inline_size], data[len(data) - inline_size :]
        self._put(inline_at, inline)
        if place.data is None:
            return (inline_at + inline_size) // BLOCK  # no meaning; what the reference writes
        self._put(self._start + place.data, blocks)
        return (self._start + place.data) // BLOCK


def pack_bootstrap(
    tree: Tree,
    chunks: ChunkStore,
    table: BlobTable,
    *,
    flags: int,
    chunk_size: int,
    prefetch: Sequence[Inode] = (),
) -> bytearray:
    """Return the whole file.

    `flags` are those of the file system that do not follow from the rest: compressor and digest of the newest
    blob, and whether owners are kept. `prefetch` are the files and directories to fetch first, in order.
    """
    placements, metadata_end = place(tree)
    blobs = table.facts
    nids = [placements[inode.ino - 1].nid for inode in prefetch] if blobs else []
    blob_table_offset = align(_DEVICE_TABLE + len(blobs) * _SLOT.size)
    prefetch_offset = blob_table_offset + len(blobs) * _BLOB_SIZE
    metadata_start = align(prefetch_offset + len(nids) * _PREFETCH_NID_SIZE) if blobs else 0
    chunk_table_offset = align(metadata_start + metadata_end)
    chunk_table = chunks.pack_table(table)
    size = align(chunk_table_offset + len(chunk_table))
    if size // BLOCK > 0xFFFFFFFF:
        raise BuildError(
            f"the metadata takes {size} bytes, more than block addresses reach; split the image into layers"
        )

    image = bytearray(size)
    metadata = _Metadata(image, metadata_start, tree, placements, chunks, table, chunk_size)
    for inode in tree.inodes:
        metadata.write(inode)
    image[chunk_table_offset : chunk_table_offset + len(chunk_table)] = chunk_table
    image[prefetch_offset : prefetch_offset + len(nids) * _PREFETCH_NID_SIZE] = b"".join(
        nid.to_bytes(_PREFETCH_NID_SIZE, "little") for nid in nids
    )

    superblock = _SUPER.pack(
        magic=EROFS_SUPER_MAGIC,
        feature_compat=EROFS_COMPAT_RAFS_V6,
        blkszbits=_BLOCK_BITS,
        root_nid=placements[0].nid,
        inos=tree.entry_count,
        blocks=sum(blob.uncompressed_size // BLOCK for blob in blobs),
        meta_blkaddr=metadata_start // BLOCK,
        feature_incompat=EROFS_INCOMPAT_CHUNKED_FILE | EROFS_INCOMPAT_DEVICE_TABLE,
        extra_devices=len(blobs),
        devt_slotoff=_DEVICE_TABLE // _SLOT.size,
    )
    rafs_superblock = _RAFS_SUPER.pack(
        flags=flags | _flags_of(tree, table),
        blob_table_offset=blob_table_offset,
        blob_table_size=len(blobs) * _BLOB_SIZE,
        chunk_size=chunk_size,
        chunk_table_offset=chunk_table_offset,
        chunk_table_size=len(chunk_table),
        prefetch_table_offset=prefetch_offset if nids else 0,
        prefetch_table_size=len(nids) * _PREFETCH_NID_SIZE,
    )
    image[EROFS_SUPER_OFFSET:_DEVICE_TABLE] = superblock + rafs_superblock
    mapped = size
    for index, blob in enumerate(blobs):
        mapped = -(-mapped // _FLATTENED_ALIGNMENT) * _FLATTENED_ALIGNMENT
        blocks = blob.uncompressed_size // BLOCK
        if mapped // BLOCK + blocks > 0xFFFFFFFF:
            raise BuildError("the blobs take more than 16 TiB together; merge fewer layers")
        slot = _SLOT.pack(tag=blob.blob_id.encode(), blocks=blocks, mapped_blkaddr=mapped // BLOCK)
        slot_at, entry_at = _DEVICE_TABLE + index * _SLOT.size, blob_table_offset + index * _BLOB_SIZE
        image[slot_at : slot_at + _SLOT.size] = slot
        image[entry_at : entry_at + _BLOB_SIZE] = blob.pack(index, chunk_size)
        mapped += blocks * BLOCK
    return image


def _flags_of(tree: Tree, table: BlobTable) -> int:
    """The flags of the file system that follow from what is in it (format section 2.4)."""
    is_encrypted = any(blob.cipher for blob in table.facts)
    flags = RAFS_FLAG_ENCRYPTION_AES if is_encrypted else RAFS_FLAG_ENCRYPTION_NONE
    if all(blob.features & RAFS_BLOB_INLINED_CHUNK_DIGEST for blob in table.facts):
        flags |= RAFS_FLAG_INLINED_CHUNK_DIGEST
    if any(inode.xattrs for inode in tree.inodes):
        flags |= RAFS_FLAG_HAS_XATTR
    return flags
