"""Fewer, fuller blobs: chunks that no file has are dropped, small blobs become one (format section 8.7).

Of each blob the share that files use decides: none, and it is dropped; little, or the whole blob is small,
and the used chunks go, as they are stored, into one new blob; else it is kept. The bootstrap is written anew,
the old files stay as they are. The new blob has one compressor and digester: blobs with another one than the
first that is to be rebuilt are kept, as are those of gzip layers.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rafs.build.blob import BlobWriter
from rafs.build.chunker import map_in_order
from rafs.build.chunks import ALIGNMENT, ChunkStore
from rafs.build.codecs import COMPRESSORS, DIGESTERS
from rafs.build.load import load_tree
from rafs.build.merge import KEPT_FLAGS
from rafs.build.output import PendingFile
from rafs.build.pack import pack_image
from rafs.build.tree import Tree
from rafs.build.v5 import V5BlobWriter
from rafs.filesystem import Filesystem
from rafs.tools.stored import StoredChunks


@dataclass(frozen=True)
class CompactOptions:
    """Rebuild a blob if less than `min_used_share` (0 to 1) of its chunk data is used, or it is smaller than
    `min_size` bytes and not the only one of that kind."""

    min_used_share: float = 0.5
    min_size: int = 10 << 20


@dataclass(frozen=True)
class BlobFate:
    """What became of a blob: "kept", "dropped" or "rebuilt". Sizes are of stored chunk data, in bytes."""

    blob_id: str
    size: int
    used_size: int
    fate: str


@dataclass(frozen=True)
class CompactResult:
    """`new_blob` is None if nothing was to be rebuilt."""

    bootstrap_path: Path
    blobs: list[BlobFate]
    new_blob: str | None
    new_blob_size: int


def compact_image(
    filesystem: Filesystem,
    bootstrap: Path,
    to: Path,
    blob_dir: Path,
    options: CompactOptions | None = None,
    *,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CompactResult:
    """Write the bootstrap `to`, and into `blob_dir` the new blob if there is one.

    `bootstrap` names the image in messages. `progress(done, total)` hears of stored bytes. Raises BuildError,
    and what reading raises.
    """
    image = filesystem.image
    loaded = ChunkStore()
    tree = load_tree(image, bootstrap, loaded)
    stored = StoredChunks(filesystem, loaded)
    fates, rows = _decide(filesystem, tree, loaded, options or CompactOptions())
    writer_of = V5BlobWriter if image.version == 5 else BlobWriter
    chunks = ChunkStore(1 if image.version == 5 else ALIGNMENT)
    new_rows: dict[int, int] = {}
    threads = jobs or len(os.sched_getaffinity(0))
    with PendingFile(blob_dir, "blob") as blob_file, PendingFile(to.parent, "bootstrap") as bootstrap_file:
        new_blob = None
        if rows:
            facts = loaded.facts(loaded.blob(rows[0]))
            compressor = next(one for one in COMPRESSORS.values() if one.code == facts.compressor)
            digester = next(one for one in DIGESTERS.values() if one.code == facts.digester)
            writer = writer_of(blob_file, compressor, digester)
            done, total = 0, sum(loaded.record(row).compressed_size for row in rows)
            for row, (chunk, data) in map_in_order(stored.stored, rows, threads):
                key = stored.key(row)
                new_row = chunks.find(key)
                if new_row is None:
                    at = writer.append(data)
                    new_row = chunks.add(
                        key, chunk.uncompressed_size, at, len(data), loaded.record(row).file_offset
                    )
                new_rows[row] = new_row
                done += len(data)
                progress(done, total)
            new_blob = writer.finish(chunks)
            chunks.finish_own(new_blob)
        for inode in tree.inodes:
            for row in inode.chunks:
                if row not in new_rows:
                    number = chunks.add_blob(loaded.facts(loaded.blob(row)))
                    new_rows[row] = chunks.add_foreign(number, loaded.record(row))
            inode.chunks = array("I", (new_rows[row] for row in inode.chunks))
        content = pack_image(
            tree,
            chunks,
            chunks.used(inode.chunks for inode in tree.inodes),
            fs_version=image.version,
            flags=image.flags & KEPT_FLAGS,
            chunk_size=image.chunk_size,
        )
        bootstrap_file.write(content)
        if new_blob:
            blob_file.commit(new_blob.blob_id)
        path = bootstrap_file.commit(to.name)
    made = (new_blob.blob_id, new_blob.size) if new_blob else (None, 0)
    return CompactResult(path, fates, *made)


def _decide(
    filesystem: Filesystem, tree: Tree, loaded: ChunkStore, options: CompactOptions
) -> tuple[list[BlobFate], list[int]]:
    """Return what becomes of each blob, and the rows that are copied, in the order of blobs and offsets."""
    image = filesystem.image
    used: dict[str, list[int]] = {}
    for row in {row for inode in tree.inodes for row in inode.chunks}:
        used.setdefault(loaded.facts(loaded.blob(row)).blob_id, []).append(row)
    codecs = {one.code for one in COMPRESSORS.values()}
    records = [image.blob(index) for index in range(image.blob_count)]
    wanted, sizes = [], {}
    for record in records:
        rows = used.get(record.blob_id, [])
        sizes[record.blob_id] = sum(loaded.record(row).compressed_size for row in rows)
        is_sparse = sizes[record.blob_id] < options.min_used_share * record.chunk_data_end
        is_small = record.chunk_data_end < options.min_size
        if rows and record.compressor in codecs and (is_sparse or is_small):
            wanted.append((record, is_sparse))
    wanted = [
        (record, is_sparse)
        for record, is_sparse in wanted
        if (record.compressor, record.digester) == (wanted[0][0].compressor, wanted[0][0].digester)
    ]
    if len(wanted) == 1 and not wanted[0][1]:
        wanted = []  # one that is only small gains nothing
    rebuilt = [record.blob_id for record, _ in wanted]
    fates = [
        BlobFate(
            record.blob_id,
            record.chunk_data_end,
            sizes[record.blob_id],
            "rebuilt" if record.blob_id in rebuilt else "kept" if used.get(record.blob_id) else "dropped",
        )
        for record in records
    ]
    rows = []
    for blob_id in rebuilt:
        rows += sorted(used[blob_id], key=lambda row: loaded.record(row).compressed_offset)
    return fates, rows
