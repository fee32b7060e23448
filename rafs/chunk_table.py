"""The chunks of a blob without blob.meta: what RAFS v5 bootstraps say of them, kept beside the cached data.

A v5 bootstrap tells of the chunks that its files have, and of no others (format specification, 4.6). So a
blob's table is gathered: each image that uses the blob brings a list (`BootstrapChunks`), which is checked
and merged into `<id>.blob.chunks` in the cache directory: a `struct rafs_chunk_record` for each chunk of the
blob, zero where nobody has told of it, padded to 4096, then a header by which C knows the file from a
blob.meta.

The file outlives the images since the READY bits do: a bit vouches for the bytes that the record described.
An image that describes a chunk in another way than the table is refused, so that what one image makes of a
blob is never served to another. A READY bit whose chunk the table did not know, nydusd's for instance,
vouches for nothing here (`ChunkTable.take_doubtful`); the bytes are then verified before they are served.

Every chunk has a digest, which is always verified.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import TypeVar

from native.chunk_table import (
    CHUNK_TABLE_MAGIC,
    RECORD,
    Bounds,
    Contradiction,
    check_list,
    check_table,
    merge,
)
from native.rafs_v6 import RAFS_CHUNK_COMPRESSED
from native.records import Record
from rafs.blob_meta import BlobMeta, Chunk
from rafs.blob_record import CI_HEADER_SIZE, MAX_COMPRESSED_SIZE, SLOT, BlobRecord
from rafs.cache import CachedBlob
from rafs.chunk_state import Run, runs_of
from rafs.errors import CacheError, ImageCorrupt, cache_error
from rafs.threads import in_thread

_HEADER = Record("rafs_ci_header")
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class BootstrapChunks:
    """What one v5 bootstrap says of one blob: packed `struct rafs_chunk_record`s, sorted by chunk index."""

    records: bytes


def bounds_of(record: BlobRecord) -> Bounds:
    """What the blob table says, as the checks of records take it."""
    end = record.chunk_data_end or MAX_COMPRESSED_SIZE  # unknown in old images
    return Bounds(record.chunk_count, record.chunk_size, end, record.uncompressed_size)


def check_chunks(record: BlobRecord, chunks: BootstrapChunks) -> None:
    """Raise ImageCorrupt unless all records of an image can be."""
    try:
        check_list(chunks.records, bounds_of(record))
    except Contradiction as error:
        raise ImageCorrupt(f"blob {record.blob_id}: chunk {error.chunk_idx} {_CANNOT_BE}") from None


_CANNOT_BE = "is out of bounds, out of order, or overlaps another one"


@dataclass(frozen=True)
class TableMeta(BlobMeta):
    """As BlobMeta, over a table; a chunk that no image has told of is ImageCorrupt."""

    def chunks(self, first: int, count: int) -> Iterator[Chunk]:
        if first < 0 or count < 0 or first + count > len(self):
            raise ImageCorrupt(f"chunks {first}..{first + count - 1} of a blob of {len(self)} chunks")
        data = self.read(first * RECORD.size, count * RECORD.size)
        if len(data) != count * RECORD.size:
            raise CacheError(f"blob {self.record.blob_id}: its table of chunks was cut; restart")
        for index in range(first, first + count):
            raw = RECORD.parse(data, (index - first) * RECORD.size)
            if not raw.uncompressed_size:
                raise ImageCorrupt(f"blob {self.record.blob_id}: chunk {index} is described by no image")
            chunk = Chunk(
                index,
                raw.uncompressed_offset,
                raw.uncompressed_size,
                raw.compressed_offset,
                raw.compressed_size,
                bool(raw.flags & RAFS_CHUNK_COMPRESSED),
            )
            self._check(chunk)
            yield chunk

    def described(self, first: int, count: int) -> list[Run]:
        data = self.read(first * RECORD.size, count * RECORD.size)
        sizes = (data[at : at + 4] for at in range(_SIZE_AT, len(data), RECORD.size))
        return list(runs_of(first + n for n, size in enumerate(sizes) if any(size)))


_SIZE_AT = 44  # of uncompressed_size in a record


class ChunkTable:
    """The table of one blob, open; a `Tail` (blob_tail.py). Used on the event loop; works in `pool`."""

    def __init__(self, cache: CachedBlob, pool: Executor, chunks: BootstrapChunks) -> None:
        self.record = cache.record
        self.meta_fd = -1
        self.is_fresh = False  # the bootstrap says it all
        self._cache = cache
        self._pool = pool
        self._first = chunks
        self._doubtful = 0
        self._size = (cache.record.chunk_count * RECORD.size + SLOT - 1) & -SLOT

    def close(self) -> None:
        if self.meta_fd >= 0:
            os.close(self.meta_fd)
        self.meta_fd = -1

    async def load_meta(self) -> BlobMeta:
        """Open the table, with what the first image says in it. Raises ImageCorrupt, CacheError."""
        await self._in_thread(self._open)
        return TableMeta(self.record, self._read)

    async def load_digests(self) -> Callable[[int], bytes | None]:
        return self._digest

    async def add_bootstrap(self, chunks: object) -> None:
        """Another image uses the blob. Raises ImageCorrupt if it contradicts the others."""
        assert isinstance(chunks, BootstrapChunks)  # the record says that it is a v5 image's
        await self._in_thread(lambda: self._add(chunks))

    def take_doubtful(self) -> list[Run]:
        """Chunks whose READY bits vouch for nothing: they must be forgotten before anybody reads them."""
        bits, self._doubtful = self._doubtful, 0
        if not bits:
            return []
        count = self.record.chunk_count
        text = f"{bits:0{(count + 7) // 8 * 8}b}"
        return list(runs_of(index for index in range(count) if text[index] == "1"))

    # in a thread

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await in_thread(self._pool, work)

    def _open(self) -> None:
        if self._cache.metadata_path("meta").exists():
            raise CacheError(
                f"{self._cache.data_path} is the cache of a RAFS v6 image; to use blob {self.record.blob_id} "
                f"in a v5 one, remove it and what stands beside it"
            )
        try:
            with self._cache.locked():
                self.meta_fd = os.open(self._path, _OPEN_FLAGS, 0o600)
                header = os.pread(self.meta_fd, CI_HEADER_SIZE, self._size)
                if not any(header):  # new, or its creator died before the header
                    # all its blocks: it is mapped, and to write where the disk has none would be a SIGBUS
                    os.posix_fallocate(self.meta_fd, 0, self._size + CI_HEADER_SIZE)
                    os.pwrite(self.meta_fd, self._pack_header(), self._size)
                elif header != self._pack_header():
                    raise CacheError(f"{self._path} is not the table of this blob; remove it")
        except OSError as error:
            raise cache_error(f"cannot open {self._path}", error) from error
        self._add(self._first)

    def _pack_header(self) -> bytes:
        count = self.record.chunk_count
        return _HEADER.pack(magic=CHUNK_TABLE_MAGIC, entries=count, magic2=CHUNK_TABLE_MAGIC)

    def _add(self, chunks: BootstrapChunks) -> None:
        check_chunks(self.record, chunks)
        bounds = bounds_of(self.record)
        try:
            with self._cache.locked(), mmap(self.meta_fd, self._size + CI_HEADER_SIZE) as table:
                try:
                    check_table(table, bounds)
                except Contradiction as error:
                    where = f"{self._path}: chunk {error.chunk_idx}"
                    raise CacheError(f"{where} {_CANNOT_BE}; remove it") from None
                try:
                    added = merge(table, chunks.records, bounds)
                except Contradiction as error:
                    raise self._contradiction(error) from None
                if added:
                    table.flush()  # before a READY bit relies on it
                    self._doubtful |= self._cache.ready_bits() & added
        except OSError as error:
            raise cache_error(f"cannot write {self._path}", error) from error

    def _contradiction(self, error: Contradiction) -> ImageCorrupt:
        what = (
            f"chunk {error.chunk_idx} is another one in an image that was used before"
            if error.is_old_known
            else f"chunk {error.chunk_idx} overlaps one of an image that was used before"
        )
        return ImageCorrupt(
            f"blob {self.record.blob_id}: {what}; if that one was wrong, remove {self._path} "
            f"and {self._cache.data_path}"
        )

    @property
    def _path(self) -> Path:
        return self._cache.metadata_path("chunks")

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self.meta_fd, length, offset)

    def _digest(self, chunk_idx: int) -> bytes | None:
        digest: bytes = RECORD.parse(self._read(chunk_idx * RECORD.size, RECORD.size)).digest
        return digest
