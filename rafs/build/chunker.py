"""Reads files in pieces on all cores, and hands back their chunks in tree order.

The order in which results come out is the order in which work goes in, whatever the number of threads; this
is what makes an image a function of its source. Memory is bounded by a window of units under way. Threads
do: reading, hashing and compressing release the GIL.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

from rafs.build.chunks import chunk_key
from rafs.build.codecs import Compressor, Digester
from rafs.build.source import SourceFile
from rafs.build.tree import Inode

#: one unit of work: this many bytes (one chunk if that is more) or files, enough to outweigh its hand-over
UNIT_SIZE = 1 << 20
UNIT_FILES = 64

T = TypeVar("T")
R = TypeVar("R")


class Piece(NamedTuple):
    """Whole chunks of one file: the bytes [offset, end), all zero if `is_hole`.

    `data` has them where the source gives them once only; else they are read from the file.
    """

    inode: Inode
    offset: int
    end: int
    data: bytes | None = None
    is_hole: bool = False


class PackedChunk(NamedTuple):
    """`stored` is None when the chunk was known already: then nobody needs the bytes."""

    key: bytes
    size: int
    file_offset: int
    stored: bytes | None


def units(inodes: Iterable[Inode], chunk_size: int) -> Iterator[list[Piece]]:
    """Cut the files among `inodes` into units of work, in order."""
    step = max(chunk_size, UNIT_SIZE)
    unit: list[Piece] = []
    unit_size = 0
    for inode in inodes:
        if not inode.is_regular:
            continue
        for offset in range(0, inode.size, step):
            end = min(offset + step, inode.size)
            unit.append(Piece(inode, offset, end))
            unit_size += end - offset
            if unit_size >= step or len(unit) >= UNIT_FILES:
                yield unit
                unit, unit_size = [], 0
    if unit:
        yield unit


class Packer:
    """Turns a unit into chunks; called from many threads at once.

    `known` is asked before compressing, so that most repeated chunks cost no compression. A chunk that two
    threads meet at the same time is compressed twice, and stored once.
    """

    def __init__(
        self, compressor: Compressor, digester: Digester, chunk_size: int, known: Container[bytes]
    ) -> None:
        self._compress = compressor.compress
        self._digest = digester.digest
        self._chunk_size = chunk_size
        self._known = known
        self._zeros_key = lru_cache(maxsize=16)(lambda size: chunk_key(self._digest(bytes(size)), size))

    def pack(self, unit: list[Piece]) -> list[list[PackedChunk]]:
        """Return the chunks of each piece."""
        return [self._pack_piece(piece) for piece in unit]

    def _pack_piece(self, piece: Piece) -> list[PackedChunk]:
        if piece.is_hole:
            return [self._pack_zeros(offset, size) for offset, size in self._ranges(piece)]
        if piece.data is not None:
            return self._pack_data(piece, piece.data)
        with SourceFile(piece.inode) as file:
            if file.is_sparse:
                return [self._pack_sparse(file, offset, size) for offset, size in self._ranges(piece)]
            return self._pack_data(piece, file.read(piece.offset, piece.end - piece.offset))

    def _pack_data(self, piece: Piece, data: bytes) -> list[PackedChunk]:
        start = piece.offset
        return [
            self._pack_chunk(data[offset - start : offset - start + size], offset)
            for offset, size in self._ranges(piece)
        ]

    def _ranges(self, piece: Piece) -> Iterator[tuple[int, int]]:
        for offset in range(piece.offset, piece.end, self._chunk_size):
            yield offset, min(self._chunk_size, piece.end - offset)

    def _pack_chunk(self, data: bytes, offset: int) -> PackedChunk:
        key = chunk_key(self._digest(data), len(data))
        return PackedChunk(key, len(data), offset, None if key in self._known else self._compress(data))

    def _pack_sparse(self, file: SourceFile, offset: int, size: int) -> PackedChunk:
        if not file.is_hole(offset, size):
            return self._pack_chunk(file.read(offset, size), offset)
        return self._pack_zeros(offset, size)

    def _pack_zeros(self, offset: int, size: int) -> PackedChunk:
        """A chunk that lies in a hole is neither read nor, but for the first of its size, hashed."""
        key = self._zeros_key(size)
        return PackedChunk(key, size, offset, None if key in self._known else self._compress(bytes(size)))


def map_in_order(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[tuple[T, R]]:
    """Yield (item, function(item)) in the order of `items`, by `jobs` threads a bounded window ahead.

    An exception of `function` comes out at its item's turn; work not begun by then is dropped.
    """
    window = 2 * jobs + 2
    under_way: deque[tuple[T, Future[R]]] = deque()
    executor = ThreadPoolExecutor(jobs, thread_name_prefix="build")
    try:
        for item in items:
            under_way.append((item, executor.submit(function, item)))
            if len(under_way) >= window:
                done, future = under_way.popleft()
                yield done, future.result()
        while under_way:
            done, future = under_way.popleft()
            yield done, future.result()
    finally:
        executor.shutdown(cancel_futures=True)
