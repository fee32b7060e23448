"""An image as one file that the kernel's EROFS mounts: `mount -t erofs -o ro,loop FILE DIR`.

A plain EROFS image: the metadata of a v6 image of the same tree, with the data behind it, uncompressed, in
the same device. What the image does not use is left out, what it has twice is stored once. Every chunk that
has a digest is verified on the way. The same image gives the same bytes. It is no RAFS any more: nothing in
it names a blob.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from native.rafs_v6 import EROFS_INCOMPAT_CHUNKED_FILE, EROFS_SUPER_OFFSET, RAFS_FLAG_EXPLICIT_UIDGID
from native.records import Record
from rafs.build.bootstrap import pack_bootstrap
from rafs.build.chunker import map_in_order
from rafs.build.chunks import ALIGNMENT, BlobTable, ChunkStore, align
from rafs.build.codecs import COMPRESSORS, Digester
from rafs.build.errors import BuildError
from rafs.build.load import load_tree
from rafs.build.output import PendingFile
from rafs.build.tree import Tree
from rafs.filesystem import Filesystem
from rafs.tools.stored import StoredChunks

_INDEX = Record("erofs_chunk_index")
_SUPER = Record("erofs_super_block")
_RAFS_SUPER_SIZE = Record("rafs_v6_super_block").size
_NONE = COMPRESSORS["none"]


@dataclass(frozen=True)
class ExportResult:
    """Sizes in bytes; `data_size` counts each chunk once."""

    path: Path
    size: int
    metadata_size: int
    data_size: int
    chunks: int


def export_erofs(
    filesystem: Filesystem,
    bootstrap: Path,
    to: Path,
    *,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportResult:
    """Write the file `to`, which appears whole or not at all. `bootstrap` names the image in messages.

    `progress(done, total)` hears of bytes of data. Raises BuildError for an image without owners or with
    holes, and what reading raises.
    """
    loaded = ChunkStore()
    tree = load_tree(filesystem.image, bootstrap, loaded)
    stored = StoredChunks(filesystem, loaded)
    digester = stored.digester
    chunks, rows = _lay_out(tree, stored)
    content = _pack_metadata(tree, chunks, filesystem.image.chunk_size, digester)
    threads = jobs or len(os.sched_getaffinity(0))
    with PendingFile(to.parent, "image") as file:
        file.write(content)
        done, total = 0, chunks.data_size
        for _, plain in map_in_order(stored.plain, rows, threads):
            file.write(plain)
            file.write(bytes(align(len(plain)) - len(plain)))
            done += len(plain)
            progress(done, total)
        path = file.commit(to.name)
    return ExportResult(path, path.stat().st_size, len(content), total, len(rows))


class _OneDevice(ChunkStore):
    """Chunks that lie in the file of the metadata itself, from block `start` on."""

    start = 0

    def used(self, files: Iterable[array[int]]) -> BlobTable:
        return BlobTable([], {}, [])

    def pack_table(self, table: BlobTable) -> bytes:
        return b""

    def pack_indexes(self, chunks: array[int], table: BlobTable) -> bytes:
        blocks = (self.start + self.offset(chunk) // ALIGNMENT for chunk in chunks)
        return b"".join(_INDEX.pack(blkaddr=block) for block in blocks)


def _pack_metadata(tree: Tree, chunks: _OneDevice, chunk_size: int, digester: Digester) -> bytearray:
    flags = _NONE.filesystem_flag | digester.filesystem_flag | RAFS_FLAG_EXPLICIT_UIDGID

    def pack() -> bytearray:
        return pack_bootstrap(tree, chunks, chunks.used(()), flags=flags, chunk_size=chunk_size)

    chunks.start = len(pack()) // ALIGNMENT  # its size does not depend on where the data is
    content = pack()
    blocks = chunks.start + chunks.uncompressed_size // ALIGNMENT
    if blocks > 0xFFFFFFFF:
        raise BuildError("the image takes more than 16 TiB, which EROFS has no addresses for")
    superblock = _SUPER.parse(content, EROFS_SUPER_OFFSET)._asdict()
    superblock |= {
        "blocks": blocks,
        "feature_compat": 0,
        "feature_incompat": EROFS_INCOMPAT_CHUNKED_FILE,
        "devt_slotoff": 0,
    }
    end = EROFS_SUPER_OFFSET + _SUPER.size
    content[EROFS_SUPER_OFFSET:end] = _SUPER.pack(**superblock)
    content[end : end + _RAFS_SUPER_SIZE] = bytes(_RAFS_SUPER_SIZE)
    return content


def _lay_out(tree: Tree, stored: StoredChunks) -> tuple[_OneDevice, list[int]]:
    """Give every chunk that a file has a place; return them, and which row each was before.

    The files of `tree` refer to the new ones after.
    """
    chunks, rows = _OneDevice(), list[int]()
    new_rows: dict[int, int] = {}
    for inode in tree.inodes:
        placed = array("I")
        for number, row in enumerate(inode.chunks):
            if row not in new_rows:
                key = stored.key(row)
                size, at = int.from_bytes(key[32:], "little"), chunks.uncompressed_size
                new_row = chunks.find(key)
                if new_row is None:
                    new_row = chunks.add(key, size, at, size, number * stored.chunk_size)
                    rows.append(row)
                new_rows[row] = new_row
            placed.append(new_rows[row])
        inode.chunks = placed
    return chunks, rows
