"""An archive as bytes: which compression it has, and a forward-only file for `tarfile` to read headers from.

Only so much is in memory as one read asks for, and the headers of one entry may ask for `MAX_HEADER` at most,
whatever they claim. A damaged header that `tarfile` takes for the end is found out by `finish`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol, cast

import zstandard

from rafs.build.errors import BuildError

#: of the headers of one entry; Go's archive/tar, which reads layers elsewhere, takes 1 MiB of attributes
MAX_HEADER = 2 << 20
_BLOCK = 512
_SKIP = 1 << 20
_HEAD = 8
_MAGICS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
#: a zstd:chunked layer or a seekable zstd file may begin with a skippable frame
_ZSTD_SKIPPABLE = tuple(bytes((0x50 + number, 0x2A, 0x4D, 0x18)) for number in range(16))


#: what tarfile and the decompressors raise for an archive that is none; OverflowError for absurd numbers
_DAMAGED = (
    tarfile.TarError,
    zstandard.ZstdError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
)


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression_of(head: bytes) -> str:
    """Name the compression of a file by its first bytes: "gzip", "zstd", "bzip2", "xz" or "none"."""
    if head.startswith(_ZSTD_SKIPPABLE):
        return "zstd"
    return next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "none")


def decompressed(file: BinaryIO, expected: str | None = None) -> Reader:
    """Return the plain bytes of `file`, whose compression is found out by its first bytes.

    Raises BuildError when it is not the `expected` one.
    """
    peeked = _Peeked(file)
    source = cast("BinaryIO", peeked)
    found = compression_of(peeked.head)
    if expected not in (None, found):
        raise BuildError(f"its compression is not {expected} but {found}; leave the type to be detected")
    if found == "gzip":
        return gzip.GzipFile(fileobj=source, mode="rb")
    if found == "zstd":
        return zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True, closefd=False)
    if found == "bzip2":
        return bz2.BZ2File(source)
    if found == "xz":
        return lzma.LZMAFile(source)
    return peeked


class _Peeked(io.RawIOBase):
    """A file whose first bytes were looked at; works for pipes too."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.head = b""
        while len(self.head) < _HEAD and (data := file.read(_HEAD - len(self.head))):
            self.head += data  # a pipe may give less than is asked for
        self._pending = self.head

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if self._pending:
            data, self._pending = self._pending[:size], self._pending[size:]
            return data
        return self._file.read(size)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn what the libraries raise for a damaged archive into one BuildError that names it."""
    try:
        yield
    except BuildError as error:
        raise BuildError(f"{name}: {error}") from None
    except _DAMAGED as error:
        raise BuildError(f"{name} is not a valid archive: {error}") from error
    except RecursionError:
        raise BuildError(f"{name} is not a valid archive: headers of headers without an end") from None
    except OSError as error:
        raise BuildError(f"{name} cannot be read: {error.strerror or error}") from error


class TarStream:
    """What `tarfile.TarFile` takes for its file: tell, read, and seek ahead."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._at = 0
        self._last = b""
        self._budget = MAX_HEADER

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return False

    def begin_entry(self) -> None:
        """The headers read from here on are those of one entry."""
        self._budget = MAX_HEADER

    def seek(self, offset: int) -> int:
        """Go ahead to `offset`, or to the end when that comes first."""
        if offset < self._at:
            raise ValueError(f"its headers point back, from byte {self._at} to {offset}")
        while self._at < offset and self._take(min(offset - self._at, _SKIP)):
            pass
        return self._at

    def read(self, size: int) -> bytes:
        """Return `size` bytes of headers, fewer only at the end. Raises ValueError when they are too many."""
        self._budget -= size
        if self._budget < 0:
            raise ValueError(
                f"the headers of one entry, at byte {self._at}, take more than {MAX_HEADER} bytes"
            )
        self._last = self._take(size)
        return self._last

    def read_data(self, size: int) -> bytes:
        """Return exactly `size` bytes of a file. Raises ValueError at the end of the archive."""
        data = self._take(size)
        if len(data) != size:
            raise ValueError("it ends in the middle of a file")
        return data

    def _take(self, size: int) -> bytes:
        data = self._source.read(size)
        if 0 < len(data) < size:
            parts, missing = [data], size - len(data)
            while missing and (data := self._source.read(missing)):
                parts.append(data)
                missing -= len(data)
            data = b"".join(parts)
        self._at += len(data)
        return data

    def finish(self) -> None:
        """Read on to the end of the file, which checks its checksums. Call when there are no more entries.

        Raises ValueError when it was not the end of the archive where `tarfile` stopped.
        """
        if self._last.strip(b"\0"):
            raise ValueError(f"the header before byte {self._at} is damaged")
        if self._last and self._take(_BLOCK).strip(b"\0"):
            raise ValueError(f"data follows at byte {self._at} after the end of the archive")
        while self._take(_SKIP):
            pass
