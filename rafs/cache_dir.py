"""A cache directory as a process uses it: made, locked, and its blobs opened.

One process alone may evict: the owner. Without an owner any number of processes share a directory.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from rafs.blob_record import BlobRecord
from rafs.cache import CachedBlob
from rafs.diskless import DisklessBlob
from rafs.errors import CacheError, CacheFull, cache_error
from rafs.governor import Governor
from rafs.limits import NO_LIMITS, CacheLimits
from rafs.unsynced import read_boot_id

log = logging.getLogger(__name__)

#: locked by every process that uses the directory
LOCK_NAME = "vhostfs.lock"
_ROOM_TO_OPEN = 1 << 20


class CacheDir:
    """A cache directory; made when it does not exist. `boot_id` stands in for the machine's in tests.

    `join` it before blobs are opened; `governor` is there from then on.
    """

    def __init__(self, path: Path, *, boot_id: str | None = None) -> None:
        self.path = path
        self.is_owner = False
        self._governor: Governor | None = None
        self._boot_id = boot_id or read_boot_id()
        self._lock_fd = -1
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cache_error(f"cannot make the cache directory {path}", error) from error

    def join(self, limits: CacheLimits = NO_LIMITS, *, owner: bool | None = None) -> None:
        """Say that this process uses the directory, and make its governor. Raises CacheError.

        `owner`: as the one process that may evict; by default where limits are set. Another process that uses
        the directory is in the way of that, and an owner in the way of others.
        """
        owner = limits.are_set if owner is None else owner
        try:
            self._lock_fd = os.open(
                self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            fcntl.flock(self._lock_fd, (fcntl.LOCK_EX if owner else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.leave()
            reason = "a limit needs it alone" if owner else "one that keeps a limit in it"
            raise CacheError(
                f"the cache directory {self.path} is in use by another process: {reason}; give each its own"
            ) from None
        except OSError as error:
            self.leave()
            raise cache_error(f"cannot lock the cache directory {self.path}", error) from error
        self.is_owner = owner
        self._governor = Governor(self.path, limits, is_owner=owner)

    @property
    def governor(self) -> Governor:
        """There from `join` on."""
        assert self._governor is not None
        return self._governor

    def check_limits(self, limits: CacheLimits) -> None:
        """Raise CacheError where it was joined with others."""
        if self.governor.limits != limits:
            raise CacheError(f"the cache directory {self.path} is in use with other limits; they must agree")

    def leave(self) -> None:
        """The opposite of `join`, after all blobs were closed."""
        if self._lock_fd >= 0:
            if self._governor is not None:
                self._governor.end()
            os.close(self._lock_fd)
        self._lock_fd = -1

    def open(self, record: BlobRecord) -> CachedBlob:
        """Open or create the files of one blob. Raises CacheError when what is there cannot be its cache."""
        for _ in range(2):
            try:
                return self._open(CachedBlob, record)
            except CacheFull as error:
                if self._governor is None or not self._governor.make_room(_ROOM_TO_OPEN):
                    log.warning("%s; it is served from memory", error)
                    break
        return self._open(DisklessBlob, record)

    def _open(self, kind: type[CachedBlob], record: BlobRecord) -> CachedBlob:
        blob = kind(self.path, record, self._boot_id, owner=self.is_owner)
        if self._governor is not None:
            blob.on_growth, blob.make_room = self._governor.note, self._governor.make_room
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


class CacheDirs:
    """The cache directories of a process: each once, however many stores use it."""

    def __init__(self) -> None:
        self._users: dict[Path, int] = {}
        self._open: dict[Path, CacheDir] = {}

    def take(self, path: Path, limits: CacheLimits = NO_LIMITS) -> CacheDir:
        """The directory, joined; `give_back` it. Raises CacheError, also where it has other limits."""
        path = path.absolute()
        directory = self._open.get(path)
        if directory is None:
            directory = CacheDir(path)
            directory.join(limits)
            self._open[path] = directory
        else:
            directory.check_limits(limits)
        self._users[path] = self._users.get(path, 0) + 1
        return directory

    def give_back(self, directory: CacheDir) -> None:
        """One user less; with the last one it is left."""
        path = directory.path
        self._users[path] -= 1
        if not self._users[path]:
            del self._users[path], self._open[path]
            directory.leave()
