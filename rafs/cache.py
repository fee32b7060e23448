"""The cache directory: per blob a sparse data file and a bitmap, as nydusd lays them out (spec, section 6).

    <id>.blob.data             the uncompressed blob, filled chunk by chunk
    <id>.blob.data.chunk_map   READY bits: 4096 bytes of header, then one bit a chunk
    <id>.blob.data.unsynced    there are READY bits whose data may not be on the disk (`unsynced.py`)
    <id>.blob.meta .digest .toc   metadata of the blob, written once, by rename
    <id>.blob.chunks           RAFS v5, which has none of these: what images say (`chunk_table.py`)
    vhostfs.lock               who may evict: one process alone, or nobody while several use the directory

`CacheDir.open` (`cache_dir.py`) gives a `CachedBlob` with the two open descriptors that the data plane maps.
The READY bits are the data plane's; here they are looked at only before it has them. Several processes,
nydusd among them, may use the directory, and files may be deleted by others at any time. The rules:

- Whoever opens a blob locks its data file (flock) until the files are known to fit together; nydusd does not
  take part in the lock, and what it does at the same time (set a length, write the same header) is harmless.
- A map is about one data file. A data file that is found missing or too short gets a *new* map file: a
  process that still has the old pair open goes on setting bits in the old map, which nobody else sees.
- A data file that was deleted and made anew while we set up is noticed at the end, and we start again.
- Data is written completely before its READY bit is set; an error in between (ENOSPC) leaves the bit clear.
- Who has a blob open holds a shared lock (flock) on its map, the lease: `inventory.py` removes no such blob.
- READY bits are cleared by the owner of the directory alone (`owner=True`), and are of no use to nydusd's
  habit of writing "all ready" into the header for ever: a nydusd must not share the directory while an owner
  evicts. Before or after it may.
- Data without a READY bit is never trusted, but `read_unmarked` offers it to be verified by digest: after
  power loss, after a lost map, after a kill between the two writes.

Everything here blocks and is called in threads. Raises CacheError (CacheFull) naming the file.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from native.dataplane import Blob
from native.rafs_v6 import (
    RAFS_CHUNK_MAP_ALL_READY,
    RAFS_CHUNK_MAP_HEADER_SIZE,
    RAFS_CHUNK_MAP_MAGIC,
    RAFS_CHUNK_MAP_MAGIC2,
)
from native.records import Record
from rafs.blob_meta import Chunk
from rafs.blob_record import BlobRecord
from rafs.chunk_state import Run
from rafs.codes import Buffer
from rafs.errors import CacheError, CacheFull, cache_error
from rafs.unsynced import UnsyncedMarker, is_same_file, sync_directory

_MAP_HEADER = Record("rafs_chunk_map_header")
_GENERATION_AT = 16  # its field eviction_generation, which only ever rises (native/c/chunk_area.h)
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MODE = 0o600
_BLOCK = 4096
_FICLONERANGE, _CLONE = 0x4020940D, struct.Struct("=qQQQ")  # <linux/fs.h>


class CachedBlob:
    """The cache files of one blob, open. Made by `CacheDir.open`.

    `data_fd` and `chunk_map_fd` are this object's; the data plane dups or maps them. `in_doubt` is the number
    of READY bits that were cleared because the machine had stopped before their data was surely on disk.
    `had_data`: the data file existed before, so `read_unmarked` may find something.
    """

    def __init__(self, directory: Path, record: BlobRecord, boot_id: str, *, owner: bool) -> None:
        self.record = record
        self._owner = owner
        self.data_fd = self.chunk_map_fd = -1
        self.in_doubt = 0
        self.had_data = False
        self._directory = directory
        self.data_path = directory / f"{record.blob_id}.blob.data"
        self.chunk_map_path = directory / f"{record.blob_id}.blob.data.chunk_map"
        self._marker = UnsyncedMarker(directory / f"{record.blob_id}.blob.data.unsynced", boot_id)
        self._lock = threading.Lock()  # of the marker
        self._fillers = 0
        #: told of bytes that files other than the data file take on the disk since it is open
        self.on_growth: Callable[[int], None] = lambda size: None
        #: asked for room on the disk when a file cannot be written; returns what was given up
        self.make_room: Callable[[int], int] = lambda size: 0
        self._dirty = self._evicted = False

    # opening

    def open_files(self) -> None:
        """Open data file, map and marker so that they fit together. For `CacheDir.open`; raises OSError."""
        while True:
            self.data_fd = os.open(self.data_path, _OPEN_FLAGS, _MODE)
            fcntl.flock(self.data_fd, fcntl.LOCK_EX)
            if is_same_file(self.data_fd, self.data_path):
                self._fit_data_file()
                self._open_chunk_map()
                fcntl.flock(self.chunk_map_fd, fcntl.LOCK_SH)  # the lease
                os.utime(self.chunk_map_fd)  # when it was last used
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
        status = os.fstat(self.chunk_map_fd)
        if status.st_size not in (0, self._map_size):
            raise self._not_a_map(f"has {status.st_size} bytes instead of {self._map_size}")
        if status.st_blocks * 512 < self._map_size:
            # a READY bit that finds no block when the disk is full would be a SIGBUS
            os.posix_fallocate(self.chunk_map_fd, 0, self._map_size)
        if status.st_size == 0:
            self._write_map_header()
            return
        header = _MAP_HEADER.parse(os.pread(self.chunk_map_fd, _MAP_HEADER.size, 0))
        if header.magic == RAFS_CHUNK_MAP_MAGIC:
            if header.version >= 1 and header.magic2 != RAFS_CHUNK_MAP_MAGIC2:
                raise self._not_a_map("has a wrong second magic number")
            if self._owner and header.all_ready == RAFS_CHUNK_MAP_ALL_READY:
                self._spell_out_all_ready()
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
        _pwrite_fully(self.chunk_map_fd, header[:_GENERATION_AT], 0)  # others may read under that
        os.fsync(self.chunk_map_fd)  # bits without the header would be taken for a foreign file

    def _spell_out_all_ready(self) -> None:
        """Bits can be cleared, "all ready" cannot: readers look at it once."""
        full, rest = divmod(self.record.chunk_count, 8)
        bits = b"\xff" * full + (bytes([0xFF00 >> rest & 0xFF]) if rest else b"")
        _pwrite_fully(self.chunk_map_fd, bits, RAFS_CHUNK_MAP_HEADER_SIZE)
        os.fsync(self.chunk_map_fd)
        self._write_map_header()

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
            if not self._marker.is_held:
                self.on_growth(_BLOCK)
            try:
                self._marker.hold()
            except OSError as error:
                raise cache_error(f"cannot write {self.data_path}.unsynced", error) from error

    def try_prepare(self) -> None:
        """`prepare` early, beside something slow; where it does not succeed, `write` tells."""
        with suppress(CacheError):
            self.prepare()

    def write(self, chunk: Chunk, plain: Buffer) -> None:
        """Write a plain chunk to its place, completely, within `filling`. Raises CacheError."""
        self.prepare()
        self._dirty = True
        try:
            _pwrite_fully(self.data_fd, plain, chunk.uncompressed_offset)
        except OSError as error:
            raise cache_error(f"cannot write {self.data_path}", error) from error

    def clone(self, chunk: Chunk, fd: int, offset: int) -> bool:
        """Instead of `write`: share the blocks of `fd` at `offset`, which have the chunk's bytes.

        False where the file system cannot; both files keep a slot for a chunk. Raises CacheFull.
        """
        self.prepare()
        self._dirty = True
        size = chunk.slot_end - chunk.uncompressed_offset
        try:
            fcntl.ioctl(self.data_fd, _FICLONERANGE, _CLONE.pack(fd, offset, size, chunk.uncompressed_offset))
        except OSError as error:
            if isinstance(full := cache_error(f"cannot write {self.data_path}", error), CacheFull):
                raise full from error
            return False
        return True

    def evict(self, native: Blob, runs: list[Run], holes: list[tuple[int, int]]) -> None:
        """Clear READY bits and punch holes, (offset, length), for good: no power loss brings a bit back.

        What `native.evict` asks of its caller holds here too. Raises CacheError.
        """
        try:
            with self._lock:  # no `settle` in between
                self._dirty = self._evicted = True
                try:
                    self._marker.hold()
                except (
                    OSError
                ):  # the disk is full: no marker, so the bits are to be on the disk before the holes
                    native.evict(runs, [])
                    os.fdatasync(self.chunk_map_fd)
                    native.evict([], holes)
                else:
                    native.evict(runs, holes)
        except OSError as error:
            raise cache_error(f"cannot evict from {self.data_path}", error) from error

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
                if not self._marker.release(self._sync_files):
                    return False
                self._evicted = False
                return True
        except OSError as error:
            raise cache_error(f"cannot write {self.data_path} to disk", error) from error

    def _sync_files(self) -> None:
        os.fdatasync(self.data_fd)
        if self._evicted:  # a READY bit that came back would be one over a hole
            os.fdatasync(self.chunk_map_fd)

    def _sync_data(self) -> None:
        try:
            self._sync_files()
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
                    self.on_growth(os.fstat(fd).st_blocks * 512)
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
