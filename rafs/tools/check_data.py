"""The blobs of an image: their sizes, metadata, and each of their chunks against its digest."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from native.dataplane import ImageError
from rafs.blob_meta import Chunk
from rafs.blob_reader import BlobReader
from rafs.blob_record import Feature
from rafs.errors import BlobCorrupt, RafsError
from rafs.filesystem import Filesystem
from rafs.toc import walk_sections
from rafs.tools.check_tree import TreeCheck
from rafs.tools.faults import Faults, raise_if_unreachable

Progress = Callable[[int, int], None]


def check_blobs(
    filesystem: Filesystem, tree: TreeCheck, faults: Faults, counts: Counter[str], progress: Progress
) -> None:
    """Check all blobs, one after the other, on all cores."""
    readers = []
    for index in range(filesystem.image.blob_count):
        try:
            reader = filesystem.blob(index)
            end = reader.record.chunk_data_end
            if reader.size < end:
                what = f"the blob ends here, its chunk data at {end}"
                faults.add(reader.record.blob_id, reader.size, b"", what)
            readers.append((index, reader))
            if Feature.HAS_TAR_HEADER in reader.record.features:
                _check_sections(reader, faults)
        except (RafsError, ImageError) as error:
            raise_if_unreachable(error)
            faults.add(_id_of(filesystem, index), None, b"", str(error))
    total = sum(reader.record.compressed_size for _, reader in readers)
    jobs = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(jobs, thread_name_prefix="check") as pool:
        done = 0
        for index, reader in readers:
            check = _BlobCheck(index, reader, tree, faults, counts, pool, 2 * jobs + 2)
            check.run(partial(_report, progress, done, total))
            done += reader.record.compressed_size
    _check_chunk_table(filesystem, faults)


def _check_sections(reader: BlobReader, faults: Faults) -> None:
    """The tar headers behind the sections (format specification, 1.3), which nobody else reads."""
    try:
        for _ in walk_sections(reader.raw, reader.size):
            pass
    except RafsError as error:
        raise_if_unreachable(error)
        faults.add(reader.record.blob_id, None, b"", str(error))


def _report(progress: Progress, before: int, total: int, stored: int) -> None:
    progress(before + stored, total)


def _id_of(filesystem: Filesystem, index: int) -> str:
    return str(filesystem.image.blob_record(index).blob_id.rstrip(b"\0").decode("ascii", "backslashreplace"))


class _BlobCheck:
    def __init__(
        self,
        index: int,
        reader: BlobReader,
        tree: TreeCheck,
        faults: Faults,
        counts: Counter[str],
        pool: ThreadPoolExecutor,
        window: int,
    ) -> None:
        self._users = tree.users.get(index, {})
        self._reader = reader
        self._tree = tree
        self._faults = faults
        self._counts = counts
        self._pool = pool
        self._window = window

    def run(self, progress: Callable[[int], None]) -> None:
        waiting: deque[tuple[Chunk, Future[bool]]] = deque()
        try:
            for chunk in self._reader.chunks():
                self._counts["chunks"] += 1
                waiting.append((chunk, self._pool.submit(self._verify, chunk)))
                if len(waiting) >= self._window:
                    self._settle(*waiting.popleft())
                    progress(chunk.compressed_offset)
        except RafsError as error:
            raise_if_unreachable(error)
            self._faults.add(self._reader.record.blob_id, None, b"", str(error))
        while waiting:
            self._settle(*waiting.popleft())

    def _verify(self, chunk: Chunk) -> bool:
        self._reader.plain(chunk)
        return self._reader.digest(chunk.chunk_idx) is not None

    def _settle(self, chunk: Chunk, future: Future[bool]) -> None:
        try:
            self._counts["verified_chunks" if future.result() else "unverified_chunks"] += 1
        except RafsError as error:
            raise_if_unreachable(error)
            user = self._users.get(chunk.chunk_idx)
            path = self._tree.path_of(user) if user is not None else b""
            end = chunk.compressed_end
            kind = "is" if isinstance(error, BlobCorrupt) else "cannot be read:"
            what = f"chunk {chunk.chunk_idx}, up to byte {end}, {kind} wrong: {error}"
            self._faults.add(self._reader.record.blob_id, chunk.compressed_offset, path, what)


def _check_chunk_table(filesystem: Filesystem, faults: Faults) -> None:
    """What a v6 bootstrap says of chunks must be what the blobs say, where it is read instead of them."""
    image = filesystem.image
    broken: set[int] = set()
    for position in range(image.chunk_record_count):
        record = image.chunk_record(position)
        if record.blob_index >= image.blob_count:
            faults.add("bootstrap", None, b"", f"chunk table entry {position} is of blob {record.blob_index}")
            continue
        if record.blob_index in broken:
            continue
        try:
            reader = filesystem.blob(record.blob_index)
            chunk = reader.chunk(record.chunk_index)
            digest = reader.digest(record.chunk_index)
        except (RafsError, ImageError):
            broken.add(record.blob_index)
            continue
        said = (
            record.uncompressed_offset,
            record.uncompressed_size,
            record.compressed_offset,
            record.digest,
        )
        true = (
            chunk.uncompressed_offset,
            chunk.uncompressed_size,
            chunk.compressed_offset,
            digest or record.digest,
        )
        if said != true:
            what = f"chunk table entry {position} is not what the blob says of chunk {record.chunk_index}"
            faults.add("bootstrap", None, b"", what)
