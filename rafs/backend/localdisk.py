"""Blobs on a local disk: each a partition of a GPT, or one that is the whole device.

The names are nydusd's. A partition of the type "basic data" is named by the first 32 characters of the
blob's id, as far as a name reaches; of any other type, its unique GUID has the other 32. Partitions end with
a block, blobs with a byte: see `end_of_blob`. The disk is opened, and its table read, by the first request.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import UUID

from rafs.backend.gpt import GptError, Partition, parse_gpt
from rafs.blob_record import parse_blob_id
from rafs.errors import BlobCorrupt, BlobNotFound, BlobUnavailable
from rafs.toc import end_of_blob

BASIC_DATA = UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
#: characters of an id that a partition's name holds
NAME_LENGTH = 32


class _Place(NamedTuple):
    offset: int
    size: int


_Result = TypeVar("_Result")


class LocalDiskBackend:
    """Reads a block device, or a file that is the image of one, in threads.

    At most `threads` reads run at once.
    """

    def __init__(self, device: Path, *, disable_gpt: bool = False, threads: int = 8) -> None:
        self._device = device
        self._disable_gpt = disable_gpt
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="disk-read")
        self._lock = threading.Lock()  # of what follows
        self._disk: _Disk | None = None
        self._places: dict[str, _Place] = {}

    async def blob_size(self, blob_id: str) -> int:
        return await self._run(blob_id, lambda disk, place: place.size)

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        def read(disk: _Disk, place: _Place) -> bytes:
            return disk.read(place.offset + offset, max(0, min(length, place.size - offset)))

        return await self._run(blob_id, read)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)  # a cancelled read may hang on
        self._disk = None

    async def _run(self, blob_id: str, use: Callable[[_Disk, _Place], _Result]) -> _Result:
        def work() -> _Result:
            try:
                with self._lock:
                    disk = self._disk = self._disk or _Disk(self._device, self._disable_gpt)
                    place = self._places.get(blob_id)
                    if place is None:
                        place = self._places[blob_id] = disk.find(parse_blob_id(blob_id))
                return use(disk, place)
            except OSError as error:
                text = f"blob {blob_id}: cannot read the disk {self._device}: {error.strerror}"
                raise BlobUnavailable(text) from error
            except GptError as error:
                raise BlobCorrupt(
                    f"blob {blob_id}: the disk {self._device} has no valid partition table: {error}; "
                    f"if the device is one blob as a whole, set disable_gpt"
                ) from None

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


class _Disk:
    """An open disk; closed when its last user has let go of it. Raises OSError, GptError."""

    def __init__(self, path: Path, disable_gpt: bool) -> None:
        self._path = path
        # O_NONBLOCK: a FIFO must not hang the thread
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
            raise OSError(errno.EINVAL, "it is neither a block device nor a regular file")
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        self._partitions = None if disable_gpt else parse_gpt(self.read, self._size)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there, fewer only at the end of the disk."""
        pieces = []
        while length > 0 and (piece := os.pread(self._fd, length, offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def find(self, blob_id: str) -> _Place:
        """Where a blob lies. Raises BlobNotFound, GptError, OSError."""
        if self._partitions is None:
            offset, size = 0, self._size
        else:
            found = [partition for partition in self._partitions if _holds(partition, blob_id)]
            if not found:
                raise BlobNotFound(f"blob {blob_id}: the disk {self._path} has no partition of that name")
            if len(found) > 1:
                raise GptError(f"partitions {found[0].number} and {found[1].number} both have that name")
            offset, size = found[0].offset, found[0].size
        return _Place(offset, end_of_blob(lambda at, length: self.read(offset + at, length), size))


def _holds(partition: Partition, blob_id: str) -> bool:
    if partition.type_guid == BASIC_DATA:
        return partition.name == blob_id[:NAME_LENGTH]
    return partition.name + partition.guid.hex == blob_id
