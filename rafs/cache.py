"""The cache directory: per blob a sparse data file and a bitmap, as nydusd lays them out (spec, section 6).

    <id>.blob.data             the uncompressed blob, filled chunk by chunk
    <id>.blob.data.chunk_map   READY bits: 4096 bytes of header, then one bit a chunk
    <id>.blob.data.unsynced    there are READY bits whose data may not be on the disk (`unsynced.py`)
    <id>.blob.meta .digest .toc   metadata of the blob, written once, by rename
    <id>.blob.chunks           RAFS v5, which has none of these: what images say (`chunk_table.py`)

`CacheDir.open` gives a `CachedBlob` with the two open descriptors that the data plane maps. The READY bits
are the data plane's; here they are looked at only before it has them. Several processes, nydusd among them,
may use the directory, and files may be deleted by others at any time. The rules:

- Whoever opens a blob locks its data file (flock) until the files are known to fit together; nydusd does not
  take part in the lock, and what it does at the same time (set a length, write the same header) is harmless.
- A map is about one data file. A data file that is found missing or too short gets a *new* map file: a
  process that still has the old pair open goes on setting bits in the old map, which nobody else sees.
- A data file that was deleted and made anew while we set up is noticed at the end, and we start again.
- Data is written completely before its READY bit is set; an error in between (ENOSPC) leaves the bit clear.
- Data without a READY bit is never trusted, but `read_unmarked` offers it to be verified by digest: after
  power loss, after a lost map, after a kill between the two writes.

Everything here blocks and is called in threads. Raises CacheError (CacheFull) naming the file.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from native.rafs_v6 import (
    RAFS_CHUNK_MAP_ALL_READY,
    RAFS_CHUNK_MAP_HEADER_SIZE,
    RAFS_CHUNK_MAP_MAGIC,
    RAFS_CHUNK_MAP_MAGIC2,
)
from native.records import Record
from rafs.blob_meta import Chunk
from rafs.blob_record import BlobRecord
from rafs.codec import Buffer
from rafs.errors import CacheError, cache_error
from rafs.unsynced import UnsyncedMarker, is_same_file, read_boot_id, sync_directory

_MAP_HEADER = Record("rafs_chunk_map_header")
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MODE = 0o600


class CacheDir:
    """A cache directory; made when it does not exist. `boot_id` stands in for the machine's in tests."""

    def __init__(self, path: Path, *, boot_id: str | None = None) -> None:
        self.path = path
        self._boot_id = boot_id or read_boot_id()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cache_error(f"cannot make the cache directory {path}", error) from error

    def open(self, record: BlobRecord) -> CachedBlob:
        """Open or create the files of one blob. Raises CacheError when what is there cannot be its cache."""
        blob = CachedBlob(self.path, record, self._boot_id)
        try:
            blob.open_files()
        except OSError as error:
            blob.close()
            raise cache_error(
                f"cannot open the cache of blob {record.blob_id} in {self.path}", error
            ) from error
        except BaseException:
            blob.close()
            raise
        return blob


class CachedBlob:
    """The cache files of one blob, open. Made by `CacheDir.open`.

    `data_fd` and `chunk_map_fd` are this object's; the data plane dups or maps them. `in_doubt` is the number
    of READY bits that were cleared because the machine had stopped before their data was surely on disk.
    `had_data`: the data file existed before, so `read_unmarked` may find something.
    """

    def __init__(self, directory: Path, record: BlobRecord, boot_id: str) -> None:
        self.record = record
        self.data_fd = self.chunk_map_fd = -1
        self.in_doubt = 0
        self.had_data = False
        self._directory = directory
        self.data_path = directory / f"{record.blob_id}.blob.data"
        self.chunk_map_path = directory / f"{record.blob_id}.blob.data.chunk_map"
        self._marker = UnsyncedMarker(directory / f"{record.blob_id}.blob.data.unsynced", boot_id)
        self._lock = threading.Lock()  # of the marker
        self._fillers = 0
        self._dirty = False

    # opening

    def open_files(self) -> None:
        """Open data file, map and marker so that they fit together. For `CacheDir.open`; raises OSError."""
        while True:
            self.data_fd = os.open(self.data_path, _OPEN_FLAGS, _MODE)
            fcntl.flock(self.data_fd, fcntl.LOCK_EX)
            if is_same_file(self.data_fd, self.data_path):
                self._fit_data_file()
                self._open_chunk_map()
                self._marker.join(self._distrust_ready_bits)
                if is_same_file(self.data_fd, self.data_path):
                    break
            self.close()
        fcntl.flock(self.data_fd, fcntl.LOCK_UN)

    def _fit_data_file(self) -> None:
        status = os.fstat(self.data_fd)
        if status.st_size > self.record.uncompressed_size:
            raise CacheError(
                f"{self.data_path} has {status.st_size} bytes, the blob {self.record.uncompressed_size}: "
                f"it is not the cache of this blob; remove it"
            )
        self.had_data = status.st_blocks > 0
        if status.st_size < self.record.uncompressed_size:
            with suppress(FileNotFoundError):
                self.chunk_map_path.unlink()
                # it must not come back after power loss beside a data file of full length
                sync_directory(self._directory)
            os.ftruncate(self.data_fd, self.record.uncompressed_size)

    def _open_chunk_map(self) -> None:
        self.chunk_map_fd = os.open(self.chunk_map_path, _OPEN_FLAGS, _MODE)
        size = os.fstat(self.chunk_map_fd).st_size
        if size == 0:
            os.ftruncate(self.chunk_map_fd, self._map_size)
            self._write_map_header()
            return
        if size != self._map_size:
            raise self._not_a_map(f"has {size} bytes instead of {self._map_size}")
        header = _MAP_HEADER.parse(os.pread(self.chunk_map_fd, _MAP_HEADER.size, 0))
        if header.magic == RAFS_CHUNK_MAP_MAGIC:
            if header.version >= 1 and header.magic2 != RAFS_CHUNK_MAP_MAGIC2:
                raise self._not_a_map("has a wrong second magic number")
        elif any(_pread_fully(self.chunk_map_fd, self._map_size, 0)):
            raise self._not_a_map("has no magic number")
        else:
            self._write_map_header()  # its creator died between the length and the header

    def _not_a_map(self, what: str) -> CacheError:
        return CacheError(f"{self.chunk_map_path} {what}: it is not the chunk map of this blob; remove it")

    @property
    def _map_size(self) -> int:
        return RAFS_CHUNK_MAP_HEADER_SIZE + (self.record.chunk_count + 7) // 8

    def _write_map_header(self) -> None:
        header = _MAP_HEADER.pack(magic=RAFS_CHUNK_MAP_MAGIC, version=1, magic2=RAFS_CHUNK_MAP_MAGIC2)
        _pwrite_fully(self.chunk_map_fd, header, 0)
        os.fsync(self.chunk_map_fd)  # bits without the header would be taken for a foreign file

    def _distrust_ready_bits(self) -> None:
        bits = _pread_fully(self.chunk_map_fd, self._map_size, 0)
        header = _MAP_HEADER.parse(bits)
        is_full = header.all_ready == RAFS_CHUNK_MAP_ALL_READY
        bitmap = int.from_bytes(bits[RAFS_CHUNK_MAP_HEADER_SIZE:])
        self.in_doubt = self.record.chunk_count if is_full else bitmap.bit_count()
        self._write_map_header()
        _pwrite_fully(
            self.chunk_map_fd, bytes(self._map_size - RAFS_CHUNK_MAP_HEADER_SIZE), RAFS_CHUNK_MAP_HEADER_SIZE
        )
        os.fsync(self.chunk_map_fd)

    # filling

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Entered on the event loop round `write` and the setting of READY bits: no `settle` in between."""
        self._fillers += 1
        try:
            yield
        finally:
            self._fillers -= 1

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare` has nothing to do. A hint: `settle` may change it at any time."""
        return self._marker.is_held

    def prepare(self) -> None:
        """Make sure of the unsynced marker; READY bits may be set from now to the end of `filling`."""
        with self._lock:
            try:
                self._marker.hold()
            except OSError as error:
                raise cache_error(f"cannot write {self.data_path}.unsynced", error) from error

    def write(self, chunks: list[tuple[Chunk, Buffer]]) -> None:
        """Write plain chunks to their place, completely, within `filling`. Raises CacheError."""
        self.prepare()
        self._dirty = True
        try:
            for chunk, plain in chunks:
                _pwrite_fully(self.data_fd, plain, chunk.uncompressed_offset)
        except OSError as error:
            raise cache_error(f"cannot write {self.data_path}", error) from error

    def read_unmarked(self, chunk: Chunk) -> bytes | None:
        """Return what the data file has in the place of a chunk that is not READY; the caller verifies it.

        None where the file has a hole there, so nothing ever was written.
        """
        offset, size = chunk.uncompressed_offset, chunk.uncompressed_size
        try:
            if os.lseek(self.data_fd, offset, os.SEEK_DATA) >= offset + size:
                return None
            data = _pread_fully(self.data_fd, size, offset)
        except OSError:  # ENXIO: a hole up to the end; EIO: as good as nothing
            return None
        return data if len(data) == size else None

    # ending

    def settle(self) -> bool:
        """Put on disk what was written; remove the marker unless chunks are being filled, here or elsewhere.

        Returns whether it was removed. The long part holds up nobody.
        """
        try:
            if self._dirty:
                self._dirty = False
                self._sync_data()
            with self._lock:
                if self._fillers or (
                    self.data_path.exists() and not is_same_file(self.data_fd, self.data_path)
                ):
                    return False
                return self._marker.release(lambda: os.fdatasync(self.data_fd))
        except OSError as error:
            raise cache_error(f"cannot write {self.data_path} to disk", error) from error

    def _sync_data(self) -> None:
        try:
            os.fdatasync(self.data_fd)
        except OSError:
            with self._lock:
                self._marker.spoil()
            raise

    @property
    def is_unsettled(self) -> bool:
        """Whether `settle` has something to do."""
        return self._dirty or self._marker.is_held

    def close(self) -> None:
        """Close the files. What is not settled is told by the marker, which stays."""
        self._marker.drop()
        for fd in (self.data_fd, self.chunk_map_fd):
            if fd >= 0:
                os.close(fd)
        self.data_fd = self.chunk_map_fd = -1

    # metadata

    def read_metadata(self, kind: str) -> bytes | None:
        """Return the content of `<id>.blob.<kind>` ("meta", "digest", "toc"), None where there is none."""
        path = self.metadata_path(kind)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise cache_error(f"cannot read {path}", error) from error

    def store_metadata(self, kind: str, content: bytes, *, verified_on_use: bool) -> None:
        """Write `<id>.blob.<kind>`: other processes see all of it or nothing.

        After power loss too, unless whoever reads it checks its digest and can read it from the blob again.
        """
        path = self.metadata_path(kind)
        temporary = path.with_name(f"{path.name}.vhostfs-new")
        try:
            with self.locked():  # one process at a time uses that name
                temporary.unlink(missing_ok=True)
                fd = os.open(temporary, _OPEN_FLAGS | os.O_EXCL, _MODE)
                try:
                    _pwrite_fully(fd, content, 0)
                    if not verified_on_use:
                        os.fsync(fd)
                finally:
                    os.close(fd)
                temporary.replace(path)
        except OSError as error:
            raise cache_error(f"cannot write {path}", error) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of ours from opening the blob, and from its metadata. Raises OSError."""
        fcntl.flock(self.data_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.data_fd, fcntl.LOCK_UN)

    def ready_bits(self) -> int:
        """Return the READY bits as a number whose highest bit is the first chunk's; for few chunks at a time
        `Blob.is_ready` is there.

        An all-ready mark becomes bits, so that single ones can be cleared. Raises OSError.
        """
        size = self._map_size - RAFS_CHUNK_MAP_HEADER_SIZE
        header = _MAP_HEADER.parse(os.pread(self.chunk_map_fd, _MAP_HEADER.size, 0))
        if header.all_ready == RAFS_CHUNK_MAP_ALL_READY:
            _pwrite_fully(self.chunk_map_fd, b"\xff" * size, RAFS_CHUNK_MAP_HEADER_SIZE)
            self._write_map_header()
        return int.from_bytes(_pread_fully(self.chunk_map_fd, size, RAFS_CHUNK_MAP_HEADER_SIZE))

    def metadata_path(self, kind: str) -> Path:
        """Return the path of `<id>.blob.<kind>`."""
        return self._directory / f"{self.record.blob_id}.blob.{kind}"


def _pwrite_fully(fd: int, data: Buffer, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _pread_fully(fd: int, length: int, offset: int) -> bytes:
    pieces = []
    while length > 0 and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
