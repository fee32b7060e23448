"""Where tools read blobs from: blocking reads, out of directories or of any back-end of the house.

The daemons fetch on an event loop; `inspect`, `check`, `unpack` and a notebook want a function that returns.
Everything here may be called from many threads. Raises BlobUnavailable and what is below it.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Protocol, TypeVar

from rafs.backend.protocol import BlobBackend, read_exactly
from rafs.blob_record import parse_blob_id
from rafs.errors import BlobCorrupt, BlobNotFound, BlobUnavailable

_Result = TypeVar("_Result")


class BlobSource(Protocol):
    """Blocking access to stored blobs."""

    def size(self, blob_id: str) -> int:
        """Return the size of a stored blob in bytes."""
        ...

    def read(self, blob_id: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        ...

    def close(self) -> None:
        """Nobody reads any more."""
        ...


class LocalSource:
    """Blobs as files named by their id; the first of `directories` that has one is asked."""

    def __init__(self, *directories: Path) -> None:
        self._directories = directories
        self._fds: dict[str, int] = {}
        self._lock = threading.Lock()

    def size(self, blob_id: str) -> int:
        return os.fstat(self._open(blob_id)).st_size

    def read(self, blob_id: str, offset: int, length: int) -> bytes:
        fd = self._open(blob_id)
        try:
            data = os.pread(fd, length, offset)
            while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
                data += more
        except (OSError, OverflowError) as error:
            raise BlobUnavailable(f"blob {blob_id}: {error}") from error
        if len(data) != length:
            raise BlobCorrupt(f"blob {blob_id}: it ends at {offset + len(data)}, not {offset + length}")
        return data

    def _open(self, blob_id: str) -> int:
        with self._lock:
            if (fd := self._fds.get(blob_id)) is not None:
                return fd
            for directory in self._directories:
                path = directory / parse_blob_id(blob_id)
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise BlobUnavailable(f"blob {blob_id}: {path}: {error.strerror}") from error
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    os.close(fd)
                    raise BlobUnavailable(f"blob {blob_id}: {path} is not a regular file")
                self._fds[blob_id] = fd
                return fd
        places = " or ".join(map(str, self._directories)) or "any directory, as none was given"
        raise BlobNotFound(f"blob {blob_id}: no such file in {places}")

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


class BackendSource:
    """Any BlobBackend, driven by a loop in a thread of its own; both end with `close`."""

    def __init__(self, backend: BlobBackend) -> None:
        self._backend = backend
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="blob-source")
        self._thread.start()

    def size(self, blob_id: str) -> int:
        return self._run(self._backend.blob_size(blob_id))

    def read(self, blob_id: str, offset: int, length: int) -> bytes:
        return self._run(read_exactly(self._backend, blob_id, offset, length))

    def _run(self, work: Coroutine[None, None, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self._run(self._backend.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
