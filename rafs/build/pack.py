"""The bootstrap of a finished tree, in the version that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from rafs.build.bootstrap import pack_bootstrap
from rafs.build.chunks import BlobTable, ChunkStore
from rafs.build.codecs import DIGESTERS
from rafs.build.tree import Inode, Tree
from rafs.build.v5 import pack_v5


def pack_image(
    tree: Tree,
    chunks: ChunkStore,
    table: BlobTable,
    *,
    fs_version: int,
    flags: int,
    chunk_size: int,
    prefetch: Sequence[Inode] = (),
) -> bytes | bytearray:
    """Return the whole file; see `bootstrap.pack_bootstrap`. Raises BuildError."""
    if fs_version == 6:
        return pack_bootstrap(tree, chunks, table, flags=flags, chunk_size=chunk_size, prefetch=prefetch)
    (digester,) = (one for one in DIGESTERS.values() if one.filesystem_flag & flags)
    return pack_v5(
        tree,
        chunks,
        table,
        flags=flags,
        chunk_size=chunk_size,
        digest=digester.digest,
        prefetch=prefetch,
    )
