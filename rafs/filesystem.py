"""An image as a library: `rafs.open` gives a `Filesystem` to walk, stat and read.

    with rafs.open("image.boot", "blobs") as image:
        for path, inode in image.walk():
            print(path, inode.size)
        print(image.read("/etc/os-release").decode())
        for chunk in image.chunks("/usr/bin/bash"):
            print(chunk.file_offset, chunk.blob_id, chunk.compressed_size)

Paths are str or bytes, absolute in the image; what is returned is bytes, as names need not be UTF-8. Symlinks
are not followed. Blocking; may be used from many threads.

Raises FileNotFoundError, NotADirectoryError and IsADirectoryError as a file system does; OSError with EUCLEAN
where the metadata lies; and RafsError of `rafs.errors`: ImageCorrupt, ImageUnsupported, BlobUnavailable (a
blob cannot be had), BlobCorrupt (it has other bytes than the image says).
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from native.dataplane import Extent, Inode
from rafs.backend.protocol import BlobBackend
from rafs.blob_meta import Chunk
from rafs.blob_reader import BlobReader
from rafs.blob_source import BackendSource, BlobSource, LocalSource
from rafs.codes import Buffer
from rafs.errors import ImageCorrupt
from rafs.image import Image, ImageError

#: plain bytes of chunks that are kept, as a large file is read in pieces
CACHE_SIZE = 64 << 20

AnyPath = str | bytes
Blobs = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | BlobBackend


class FileChunk(NamedTuple):
    """`size` bytes of a file at `file_offset`, and the chunk of a blob that they are.

    A hole has no blob: `blob_id` is "", the rest 0. Offsets and sizes in bytes; `digest` is that of the plain
    chunk, None where the image has none. `chunk_idx` is -1 for bytes that lie in the metadata itself.
    """

    file_offset: int
    size: int
    blob_id: str = ""
    chunk_idx: int = -1
    compressed_offset: int = 0
    compressed_size: int = 0
    uncompressed_offset: int = 0
    digest: bytes | None = None


def open_image(bootstrap: str | os.PathLike[str], blobs: Blobs = ()) -> Filesystem:
    """Open a bootstrap file. `blobs`: where its data is, a directory of blobs, several, or a back-end.

    Without it there is only metadata. A back-end is closed with the Filesystem.
    Raises ImageCorrupt for what is no RAFS v5 or v6 bootstrap, OSError for what cannot be read.
    """
    try:
        image = Image(bootstrap)
    except ImageError as error:
        raise ImageCorrupt(str(error)) from None
    return Filesystem(image, make_source(blobs))


def make_source(blobs: Blobs) -> BlobSource:
    """Return what reads `blobs`, as `open_image` takes it."""
    if isinstance(blobs, str | os.PathLike):
        return LocalSource(Path(blobs))
    if isinstance(blobs, Iterable):
        return LocalSource(*map(Path, blobs))
    return BackendSource(blobs)


class Filesystem:
    """An open image; a context manager. `image` is its metadata, `blobs` read its data, by blob index."""

    def __init__(self, image: Image, source: BlobSource) -> None:
        self.image = image
        self._source = source
        self._readers: dict[int, BlobReader] = {}
        self._plain: OrderedDict[tuple[int, int], Buffer] = OrderedDict()
        self._plain_size = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Filesystem:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the metadata and the source of blobs."""
        self._source.close()
        self.image.close()

    # the tree

    def find(self, path: AnyPath) -> int:
        """Return the number of the inode at `path`."""
        return self.image.resolve(os.fsencode(path))

    def stat(self, path: AnyPath) -> Inode:
        """Return the attributes of `path`."""
        return self.image.inode(self.find(path))

    def listdir(self, path: AnyPath = "/") -> list[bytes]:
        """Return the names in a directory, sorted, without "." and ".."."""
        return [name for entry in self.image.readdir(self.find(path)) if (name := entry.name) not in _DOTS]

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Yield every path with its attributes, the root (b"/") first, directories before what they hold."""
        return self.image.walk()

    def readlink(self, path: AnyPath) -> bytes:
        """Return the target of a symlink. Raises OSError(EINVAL) for anything else."""
        nid = self.find(path)
        if not stat.S_ISLNK(self.image.inode(nid).mode):
            raise OSError(errno.EINVAL, "not a symlink", os.fsdecode(path))
        return self.image.readlink(nid)

    def xattrs(self, path: AnyPath) -> dict[bytes, bytes]:
        """Return the extended attributes of `path`."""
        return self.image.xattrs(self.find(path))

    # data

    def blob(self, index: int) -> BlobReader:
        """Return what reads blob `index` of the image. Raises IndexError."""
        with self._lock:
            reader = self._readers.get(index)
        if reader is None:
            try:
                chunks = self.image.bootstrap_chunks(index)
            except ImageError as error:
                raise ImageCorrupt(str(error)) from None
            reader = BlobReader(self.image.blob(index), self._source, chunks)
            with self._lock:
                reader = self._readers.setdefault(index, reader)
        return reader

    def chunks(self, path: AnyPath) -> Iterator[FileChunk]:
        """Yield where the data of a regular file lies, in order."""
        nid = self.find(path)
        inode = self._regular(nid, path)
        for extent in self.image.extents(nid, 0, inode.size):
            if extent.blob_index < 0:
                yield FileChunk(extent.file_offset, extent.length)
                continue
            reader = self.blob(extent.blob_index)
            chunk = self.check_extent(extent)
            yield FileChunk(
                extent.file_offset,
                extent.length,
                reader.record.blob_id,
                chunk.chunk_idx,
                chunk.compressed_offset,
                chunk.compressed_size,
                chunk.uncompressed_offset,
                reader.digest(chunk.chunk_idx),
            )

    def read(self, path: AnyPath, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes of a regular file (default: to its end) from `offset`; fewer at the end."""
        nid = self.find(path)
        end = self._regular(nid, path).size
        stop = end if size is None else min(end, offset + size)
        return b"".join(self.data(nid, offset, stop - offset)) if stop > offset else b""

    def open(self, path: AnyPath) -> io.BufferedReader:
        """Open a regular file for reading, as `open(path, "rb")` does."""
        nid = self.find(path)
        return io.BufferedReader(_File(self, nid, self._regular(nid, path).size), 1 << 20)

    def data(self, nid: int, offset: int, length: int) -> Iterator[Buffer]:
        """Yield the bytes of a range inside regular file `nid`, in pieces of a chunk or less."""
        for extent, piece in self.pieces(self.image.extents(nid, offset, length)):
            if piece is None:
                yield from _zeros(extent.length)
            else:
                yield piece

    def pieces(self, extents: Iterable[Extent]) -> Iterator[tuple[Extent, Buffer | None]]:
        """Yield the bytes of each extent; None for a hole."""
        for extent in extents:
            if extent.inline is not None:
                yield extent, extent.inline
            elif extent.blob_index < 0:
                yield extent, None
            else:
                start = extent.offset_in_chunk
                yield extent, memoryview(self._read_chunk(extent))[start : start + extent.length]

    def _regular(self, nid: int, path: AnyPath) -> Inode:
        inode = self.image.inode(nid)
        if stat.S_ISDIR(inode.mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", os.fsdecode(path))
        if not stat.S_ISREG(inode.mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        return inode

    def check_extent(self, extent: Extent) -> Chunk:
        """Return the chunk that an extent is of. Raises ImageCorrupt where the blob contradicts that."""
        reader = self.blob(extent.blob_index)
        chunk = reader.chunk(extent.chunk_index)
        needed = extent.offset_in_chunk + extent.length
        if chunk.uncompressed_offset != extent.blob_offset or needed > chunk.uncompressed_size:
            raise ImageCorrupt(
                f"blob {reader.record.blob_id}: a file has chunk {extent.chunk_index} at "
                f"{extent.blob_offset} with {needed} bytes or more, the blob at {chunk.uncompressed_offset} "
                f"with {chunk.uncompressed_size}"
            )
        return chunk

    def _read_chunk(self, extent: Extent) -> Buffer:
        key = (extent.blob_index, extent.chunk_index)
        reader = self.blob(extent.blob_index)
        chunk = self.check_extent(extent)
        with self._lock:
            if (plain := self._plain.get(key)) is not None:
                self._plain.move_to_end(key)
                return plain
        plain = reader.plain(chunk)
        with self._lock:
            if key not in self._plain:
                self._plain[key] = plain
                self._plain_size += len(plain)
            while self._plain_size > CACHE_SIZE:
                self._plain_size -= len(self._plain.popitem(last=False)[1])
        return plain


_DOTS = (b".", b"..")
_ZEROS = 1 << 20


def _zeros(length: int) -> Iterator[bytes]:
    for at in range(0, length, _ZEROS):
        yield bytes(min(_ZEROS, length - at))


class _File(io.RawIOBase):
    """A regular file of an image."""

    def __init__(self, filesystem: Filesystem, nid: int, size: int) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._nid = nid
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "before the start of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        done = 0
        for piece in self._filesystem.data(self._nid, self._at, length):
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        self._at += done
        return done
