"""Merging: the bootstraps of an image's layers become the one bootstrap that is mounted.

Blobs are not touched. The merged image has those that a surviving file needs, in order of first use; a chunk
that several layers store is taken from the lowest of them, which other images are likely to share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from native.rafs_v6 import (
    RAFS_FLAG_COMPRESS_GZIP,
    RAFS_FLAG_COMPRESS_LZ4,
    RAFS_FLAG_COMPRESS_NONE,
    RAFS_FLAG_COMPRESS_ZSTD,
    RAFS_FLAG_DIGEST_BLAKE3,
    RAFS_FLAG_DIGEST_SHA256,
    RAFS_FLAG_EXPLICIT_UIDGID,
)
from rafs.build.blob_facts import BlobFacts
from rafs.build.chunks import ChunkStore
from rafs.build.errors import BuildError
from rafs.build.load import check_alike, load_tree, opened
from rafs.build.output import PendingFile
from rafs.build.overlay import Whiteouts, stack
from rafs.build.pack import pack_image
from rafs.build.prefetch import select

#: what the newest layer says of the file system; the rest follows from what is in it
KEPT_FLAGS = (
    RAFS_FLAG_COMPRESS_NONE
    | RAFS_FLAG_COMPRESS_LZ4
    | RAFS_FLAG_COMPRESS_GZIP
    | RAFS_FLAG_COMPRESS_ZSTD
    | RAFS_FLAG_DIGEST_BLAKE3
    | RAFS_FLAG_DIGEST_SHA256
    | RAFS_FLAG_EXPLICIT_UIDGID
)


@dataclass(frozen=True, slots=True)
class MergeResult:
    """`blobs` in the order of the blob table; sizes in bytes."""

    bootstrap_path: Path
    bootstrap_size: int
    blobs: tuple[BlobFacts, ...]
    entry_count: int
    inode_count: int
    data_size: int
    warnings: tuple[str, ...]

    @property
    def blob_ids(self) -> tuple[str, ...]:
        return tuple(blob.blob_id for blob in self.blobs)


def merge_bootstraps(
    layers: Sequence[Path],
    bootstrap: Path,
    *,
    whiteouts: Whiteouts = Whiteouts.OCI,
    prefetch: Sequence[bytes] = (),
) -> MergeResult:
    """Merge `layers`, lowest first, into the file `bootstrap`. The same input gives the same bytes.

    `prefetch` are paths in the merged image. Raises BuildError.
    """
    if not layers:
        raise BuildError("there are no layers to merge")
    chunks = ChunkStore()
    trees = []
    flags = chunk_size = version = 0
    for path in layers:
        with opened(path) as image:
            check_alike(image, path, version or image.version, chunk_size or image.chunk_size)
            version, chunk_size = image.version, image.chunk_size
            flags = image.flags & KEPT_FLAGS
            trees.append(load_tree(image, path, chunks))
    tree = stack(trees, whiteouts)
    wanted, warnings = select(tree, prefetch)
    table = chunks.used(inode.chunks for inode in tree.inodes)
    content = pack_image(
        tree, chunks, table, fs_version=version, flags=flags, chunk_size=chunk_size, prefetch=wanted
    )
    with PendingFile(bootstrap.parent, "bootstrap") as file:
        file.write(content)
        path = file.commit(bootstrap.name)
    return MergeResult(
        bootstrap_path=path,
        bootstrap_size=len(content),
        blobs=tuple(table.facts),
        entry_count=tree.entry_count,
        inode_count=len(tree.inodes),
        data_size=sum(inode.size for inode in tree.inodes if inode.is_regular),
        warnings=(*tree.warnings, *warnings),
    )
