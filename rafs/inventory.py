"""What lies in a cache directory, and which of it may be removed.

A blob is in use while somebody has its chunk map open and locked shared (`cache.py`: the lease). A blob that
is not can be removed at any time, also while daemons run: it is locked against being opened meanwhile, and
who opens it then finds nothing and starts anew. nydusd takes no lease; it goes on with the files that it has
open, whose space comes back when it ends.

Everything here blocks.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rafs.errors import cache_error
from rafs.unsynced import is_same_file

DATA, CHUNK_MAP, UNSYNCED = "blob.data", "blob.data.chunk_map", "blob.data.unsynced"
_FILE = re.compile(r"([0-9a-f]{64})\.(.+)")


@dataclass(slots=True)
class StoredBlob:
    """The files of one blob: bytes on the disk by what follows the id in their names ("blob.data")."""

    blob_id: str
    files: dict[str, int] = field(default_factory=dict)
    #: seconds since the epoch
    last_used: float = 0.0

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


@dataclass(slots=True)
class Inventory:
    """All files of a cache directory. `other_bytes`: those that are no blob's."""

    blobs: dict[str, StoredBlob] = field(default_factory=dict)
    other_bytes: int = 0

    @property
    def bytes(self) -> int:
        return self.other_bytes + sum(blob.bytes for blob in self.blobs.values())


def take_inventory(directory: Path) -> Inventory:
    """Look at every file. Raises CacheError."""
    found = Inventory()
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed by somebody since
                    _add(found, entry.name, entry.stat(follow_symlinks=False))
    except OSError as error:
        raise cache_error(f"cannot look into the cache directory {directory}", error) from error
    return found


def _add(found: Inventory, name: str, status: os.stat_result) -> None:
    size = status.st_blocks * 512
    match = _FILE.fullmatch(name)
    if match is None:
        found.other_bytes += size
        return
    blob_id, kind = match.groups()
    blob = found.blobs.setdefault(blob_id, StoredBlob(blob_id))
    blob.files[kind] = size
    blob.last_used = max(blob.last_used, status.st_mtime)


def is_in_use(directory: Path, blob_id: str) -> bool:
    """Whether a process of ours has the blob open, or is about to."""
    with _unused(directory, blob_id) as is_unused:
        return not is_unused


def remove_blob(directory: Path, blob_id: str) -> bool:
    """Remove all files of a blob; False when it is in use. Raises CacheError."""
    with _unused(directory, blob_id) as is_unused:
        if not is_unused:
            return False
        try:
            # The map goes first: without its data file it would be about nothing. What is left by a crash in
            # between is data without READY bits, which is verified before it is used.
            for kind in (CHUNK_MAP, DATA, UNSYNCED):
                (directory / f"{blob_id}.{kind}").unlink(missing_ok=True)
            for path in directory.glob(f"{blob_id}.*"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise cache_error(f"cannot remove blob {blob_id} from {directory}", error) from error
        return True


@contextmanager
def _unused(directory: Path, blob_id: str) -> Iterator[bool]:
    """Lock a blob out of use, if nobody uses it. Who opens it waits for the first of the two locks."""
    fds: list[int] = []
    try:
        yield all(_try_lock(directory / f"{blob_id}.{kind}", fds) for kind in (DATA, CHUNK_MAP))
    except OSError as error:
        raise cache_error(f"cannot lock blob {blob_id} in {directory}", error) from error
    finally:
        for fd in fds:
            os.close(fd)


def _try_lock(path: Path, fds: list[int]) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    fds.append(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return is_same_file(fd, path)
