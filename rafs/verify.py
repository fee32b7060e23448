"""Re-checks the chunks of a blob in a cache directory against their digests; no daemon is asked.

What the chunks are is taken from the blob's own metadata files beside it (specification, 6.2, 3.6). If no
image vouches for those (`vouched_chunks`), a flaw in them shows as corrupt chunks too, and the algorithm of
the digests is the one that fits.

Reads only, but for `repair`. Daemons may run: a chunk that is evicted while it is read counts as gone.
Blocks.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from native.chunk_table import RECORD
from native.rafs_v6 import (
    RAFS_CHUNK_MAP_ALL_READY,
    RAFS_CHUNK_MAP_HEADER_SIZE,
    RAFS_CI_MAGIC,
)
from native.records import Record
from rafs.blob_meta import parse_record_v1, parse_record_v2
from rafs.blob_record import CI_HEADER_SIZE, CI_V1_SIZE, CI_V2_SIZE, BlobRecord, Feature
from rafs.codec import chunk_digest
from rafs.codes import DIGEST_SIZE, Digester
from rafs.disk_read import DiskFile
from rafs.errors import CacheError, cache_error
from rafs.inventory import CHUNK_MAP, DATA
from rafs.toc import check_content, parse_toc

_CI_HEADER = Record("rafs_ci_header")


@dataclass(slots=True)
class BlobReport:
    """What was found of one blob. Counts are chunks; `corrupt` are their indices.

    `unverifiable`: why it could not be checked.
    """

    blob_id: str
    chunks: int = 0
    ready: int = 0
    checked: int = 0
    checked_bytes: int = 0
    corrupt: list[int] = field(default_factory=list)
    unverifiable: str = ""


class ChunkMapFile:
    """A chunk map (6.3), looked at as others change it."""

    def __init__(self, path: Path, chunk_count: int, *, writable: bool = False) -> None:
        """Raises CacheError, OSError."""
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = RAFS_CHUNK_MAP_HEADER_SIZE + (chunk_count + 7) // 8
            if os.fstat(fd).st_size != size:
                raise CacheError(f"{path} is not the chunk map of a blob with {chunk_count} chunks")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(fd, size, access=access)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._chunk_count = chunk_count

    def hold_lease(self) -> None:
        """Keep the blob from being removed (`inventory.py`). Raises BlockingIOError while it is."""
        fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    @property
    def generation(self) -> int:
        """Rises with each eviction."""
        return int.from_bytes(self._map[16:24], "little")

    @property
    def _all_ready(self) -> bool:
        return int.from_bytes(self._map[12:16], "little") == RAFS_CHUNK_MAP_ALL_READY

    def is_ready(self, index: int) -> bool:
        return self._all_ready or bool(self._map[RAFS_CHUNK_MAP_HEADER_SIZE + index // 8] & 0x80 >> index % 8)

    def count_ready(self) -> int:
        return sum(self.is_ready(index) for index in range(self._chunk_count))

    def ready_bits(self) -> bytes:
        """A copy of the bits, first chunk first."""
        if self._all_ready:
            return b"\xff" * (len(self._map) - RAFS_CHUNK_MAP_HEADER_SIZE)
        return self._map[RAFS_CHUNK_MAP_HEADER_SIZE:]

    def clear(self, index: int) -> None:
        """For the owner of the directory, while nobody has the blob open."""
        if self._all_ready:
            self._map[RAFS_CHUNK_MAP_HEADER_SIZE:] = b"\xff" * (len(self._map) - RAFS_CHUNK_MAP_HEADER_SIZE)
            self._map[12:16] = bytes(4)
        self._map[RAFS_CHUNK_MAP_HEADER_SIZE + index // 8] &= ~(0x80 >> index % 8) & 0xFF

    def flush(self) -> None:
        self._map.flush()

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """What is known of a blob's chunks: `place(index)` gives (offset, size) in the data file."""

    count: int
    place: Callable[[int], tuple[int, int]]
    digest: Callable[[int], bytes | None]
    digester: Digester | None = None
    #: all of them, one after the other, where they lie like that
    digests: mmap.mmap | None = None


def stored_chunks(directory: Path, blob_id: str) -> StoredChunks:
    """Read a blob's metadata files in the cache directory. Raises CacheError with what is missing."""
    table = directory / f"{blob_id}.blob.chunks"
    try:
        if table.exists():
            return _of_table(table)
        return _of_meta(directory / f"{blob_id}.blob.meta", directory / f"{blob_id}.blob.digest")
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name.removeprefix(f"{blob_id}.")
        raise CacheError(f"it has no {missing} here; name an image that has it") from None
    except OSError as error:
        raise cache_error(f"cannot read the metadata of blob {blob_id}", error) from error


def _of_meta(meta_path: Path, digest_path: Path) -> StoredChunks:
    meta, digests = _mapped(meta_path), _mapped(digest_path)
    header = _CI_HEADER.parse(meta[-CI_HEADER_SIZE:]) if len(meta) > CI_HEADER_SIZE else None
    if header is None or header.magic != RAFS_CI_MAGIC:
        raise CacheError(f"{meta_path.name} is no blob.meta")
    is_v2 = bool(header.features & Feature.CHUNK_INFO_V2)
    size, words = (CI_V2_SIZE, 3) if is_v2 else (CI_V1_SIZE, 2)
    count = int(header.entries)
    if count * size > len(meta) - CI_HEADER_SIZE or count * DIGEST_SIZE != len(digests):
        raise CacheError(f"{meta_path.name} and {digest_path.name} do not fit together")

    def place(index: int) -> tuple[int, int]:
        raw = meta[index * size : (index + 1) * size]
        numbers = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, 8 * words, 8)]
        chunk = parse_record_v2(index, *numbers) if is_v2 else parse_record_v1(index, *numbers)
        return chunk.uncompressed_offset, chunk.uncompressed_size

    def digest(index: int) -> bytes:
        return digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]

    return StoredChunks(count, place, digest, digests=digests)


def _mapped(path: Path) -> mmap.mmap:
    """The content, without the memory for it; files of metadata are replaced, never changed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not os.fstat(fd).st_size:
            raise CacheError(f"{path.name} is empty")
        return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)


def _of_table(path: Path) -> StoredChunks:
    """RAFS v5 (`chunk_table.py`)."""
    content = path.read_bytes()  # it grows
    header = _CI_HEADER.parse(content[-CI_HEADER_SIZE:]) if len(content) > CI_HEADER_SIZE else None
    if header is None or header.entries * RECORD.size > len(content) - CI_HEADER_SIZE:
        raise CacheError(f"{path.name} is no table of chunks")

    def place(index: int) -> tuple[int, int]:
        record = RECORD.parse(content, index * RECORD.size)
        return record.uncompressed_offset, record.uncompressed_size

    def digest(index: int) -> bytes | None:
        record = RECORD.parse(content, index * RECORD.size)
        return record.digest if record.uncompressed_size else None

    return StoredChunks(int(header.entries), place, digest)


def verify_blob(
    directory: Path,
    blob_id: str,
    chunks: StoredChunks | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> BlobReport:
    """Check every READY chunk of a blob. `progress` hears of bytes. Raises RafsError, OSError."""
    report = BlobReport(blob_id)
    chunks = chunks or stored_chunks(directory, blob_id)
    report.chunks = chunks.count
    chunk_map = ChunkMapFile(directory / f"{blob_id}.{CHUNK_MAP}", chunks.count)
    try:
        with DiskFile(directory / f"{blob_id}.{DATA}") as data:
            for index, is_right in _check(chunks, chunk_map, data, report):
                progress(chunks.place(index)[1])
                if not is_right:
                    report.corrupt.append(index)
    finally:
        chunk_map.close()
    return report


def _check(
    chunks: StoredChunks, chunk_map: ChunkMapFile, data: DiskFile, report: BlobReport
) -> Iterator[tuple[int, bool]]:
    digesters = [chunks.digester] if chunks.digester is not None else list(Digester)
    for index in range(chunks.count):
        generation = chunk_map.generation
        if not chunk_map.is_ready(index):
            continue
        report.ready += 1
        expected = chunks.digest(index)
        if expected is None:
            continue
        offset, size = chunks.place(index)
        try:
            content = data.read(offset, size)
        except OSError:  # the disk cannot read it
            content = b""
        found = [digester for digester in digesters if chunk_digest(content, digester) == expected]
        if not found and chunk_map.generation != generation:
            continue  # something was evicted meanwhile, this one maybe
        if found:
            digesters = found
        report.checked += 1
        report.checked_bytes += size
        yield index, bool(found)


def repair(directory: Path, report: BlobReport) -> None:
    """Take the READY bits of corrupt chunks away, so that they are fetched again.

    For the owner of the directory (`CacheDir.join`), while nobody has the blob open. Raises RafsError.
    """
    try:
        path = directory / f"{report.blob_id}.{CHUNK_MAP}"
        chunk_map = ChunkMapFile(path, report.chunks, writable=True)
        try:
            for index in report.corrupt:
                chunk_map.clear(index)
            chunk_map.flush()
        finally:
            chunk_map.close()
    except OSError as error:
        raise cache_error(f"cannot repair blob {report.blob_id}", error) from error


def vouched_chunks(directory: Path, record: BlobRecord, digests: Mapping[int, bytes] | None) -> StoredChunks:
    """As `stored_chunks`, vouched for by an image: its entry of the blob table, its digests if any.

    Raises CacheError where the metadata files are not those that the image means.
    """
    stored = stored_chunks(directory, record.blob_id)
    if record.chunk_count != stored.count:
        raise CacheError(f"the image has {record.chunk_count} chunks, the metadata here {stored.count}")
    if digests:
        return StoredChunks(stored.count, stored.place, digests.get, record.digester)
    if record.toc_digest is not None:
        toc_path = directory / f"{record.blob_id}.blob.toc"
        tail = toc_path.read_bytes()
        toc = parse_toc(tail, 1 << 62, toc_size=record.toc_size, toc_digest=record.toc_digest)
        content = (directory / f"{record.blob_id}.blob.digest").read_bytes()
        if (entry := toc.find("blob.digest")) is None:
            raise CacheError(f"{toc_path.name} knows of no digests")
        check_content(entry, content)
    return StoredChunks(stored.count, stored.place, stored.digest, record.digester)
