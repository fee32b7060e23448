"""Blobs in directories of this host: a local disk or a NAS."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from rafs.blob_record import parse_blob_id
from rafs.errors import BlobNotFound, BlobUnavailable


class _BlobFile:
    """An open blob file; closed when the cache and the last reader have let go of it."""

    def __init__(self, path: Path) -> None:
        # O_NONBLOCK: a FIFO in the directory must not hang the thread
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        self.size = status.st_size

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def read(self, offset: int, length: int) -> bytes:
        pieces = []
        while length > 0 and (piece := os.pread(self.fd, length, offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


_Result = TypeVar("_Result")


class LocalBackend:
    """Blobs as files named by their id in directories (a disk or a NAS), or one file, read in threads.

    A blob is taken from the first directory that has it; `blob_file` stands for every blob, before them.
    At most `threads` reads run at once; a read on a hung NAS holds up its thread only. Blob files are
    immutable by contract: up to MAX_OPEN stay open, and are read on after they were unlinked.
    """

    MAX_OPEN = 64

    def __init__(self, *directories: Path, blob_file: Path | None = None, threads: int = 8) -> None:
        self._directories = directories
        self._blob_file = blob_file
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="blob-read")
        self._files: OrderedDict[str, _BlobFile] = OrderedDict()
        self._lock = threading.Lock()  # of _files

    async def blob_size(self, blob_id: str) -> int:
        return await self._run(blob_id, "its size", lambda file: file.size)

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        where = f"{length} bytes at offset {offset}"
        return await self._run(blob_id, where, lambda file: file.read(offset, length))

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)  # a cancelled read may hang on
        self._files.clear()

    async def _run(self, blob_id: str, what: str, use: Callable[[_BlobFile], _Result]) -> _Result:
        def work() -> _Result:
            try:
                return use(self._open(blob_id))
            except FileNotFoundError:
                raise BlobNotFound(f"blob {blob_id}: no such file in {self._where}") from None
            except OSError as error:
                place = f"cannot read {what} from {self._where}"
                raise BlobUnavailable(f"blob {blob_id}: {place}: {error.strerror}") from error

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _open(self, blob_id: str) -> _BlobFile:
        with self._lock:
            file = self._files.get(blob_id)
            if file is not None:
                self._files.move_to_end(blob_id)
                return file
        file = self._open_first(parse_blob_id(blob_id))
        with self._lock:
            self._files[blob_id] = file
            if len(self._files) > self.MAX_OPEN:
                self._files.popitem(last=False)
        return file

    def _open_first(self, name: str) -> _BlobFile:
        paths = [self._blob_file] if self._blob_file else [folder / name for folder in self._directories]
        for path in paths[:-1]:
            with suppress(FileNotFoundError):
                return _BlobFile(path)
        return _BlobFile(paths[-1])

    @property
    def _where(self) -> str:
        return " or ".join(map(str, [self._blob_file] if self._blob_file else self._directories))
