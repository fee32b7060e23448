"""A directory as a Source: what to prefetch is read first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rafs.build.chunker import Piece, units
from rafs.build.prefetch import in_order, select
from rafs.build.source import scan_directory
from rafs.build.tree import Tree


class DirectorySource:
    """Scans `path` at once; the files are read when their pieces are packed."""

    def __init__(
        self, path: bytes, first: Sequence[bytes] = (), on_entry: Callable[[int], None] = lambda count: None
    ) -> None:
        self._tree = scan_directory(path, on_entry)
        self._first = first
        self.data_size: int | None = sum(inode.size for inode in self._tree.inodes if inode.is_regular)

    def units(self, chunk_size: int) -> Iterator[list[Piece]]:
        first, _ = select(self._tree, self._first)
        return units(in_order(self._tree, first) if first else self._tree.inodes, chunk_size)

    def tree(self) -> Tree:
        return self._tree
