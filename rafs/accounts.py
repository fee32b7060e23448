"""What a cache directory takes of its disk, and how much of that is too much: by what the file system says.

Data files of open blobs are asked after each write; everything is counted now and then, as others remove and
add files too. What is about to be written counts from when it is reserved. Thread-safe.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from rafs.blob_space import BlobSpace
from rafs.inventory import Inventory, take_inventory
from rafs.limits import CacheLimits

#: kept free of a quota for what is written without asking: metadata, markers
_MARGIN = 1 << 20


class Accounts:
    """Of one directory. Only `count` blocks for long."""

    def __init__(self, directory: Path, limits: CacheLimits) -> None:
        self.limits = limits
        #: of the last count
        self.inventory: Inventory | None = None
        self._directory = directory
        self._lock = threading.Lock()
        self._open: dict[BlobSpace, int] = {}
        self._others = 0
        self._pending = 0

    @property
    def bytes(self) -> int:
        """What all files take."""
        with self._lock:
            return self._bytes

    def open(self, space: BlobSpace) -> None:
        with self._lock:
            self._open[space] = space.disk_bytes

    def close(self, space: BlobSpace) -> None:
        with self._lock:
            self._others += self._open.pop(space)

    def ask(self, space: BlobSpace) -> None:
        """Its data file was changed."""
        with self._lock:
            self._open[space] = space.disk_bytes

    def note(self, size: int) -> None:
        """Another file was written; the next count knows it."""
        with self._lock:
            self._others += size

    def reserve(self, size: int) -> bool:
        """Whether `size` bytes may be written within the limits; if so they count until `settle`."""
        with self._lock:
            if self._excess(size) > 0:
                return False
            self._pending += size
            return True

    def settle(self, space: BlobSpace, size: int) -> None:
        """What was reserved is written, or will not be."""
        with self._lock:
            self._pending -= size
            self._open[space] = space.disk_bytes

    def excess(self, more: int) -> int:
        """Bytes that are to go before `more` may be written."""
        with self._lock:
            return self._excess(more)

    def _excess(self, more: int) -> int:
        excess = 0
        if self.limits.quota is not None:
            quota = self.limits.quota - min(self.limits.quota >> 6, _MARGIN)
            excess = self._bytes + self._pending + more - quota
        if self.limits.min_free:
            excess = max(excess, self.limits.min_free + self._pending + more - self._free_bytes())
        return excess

    @property
    def _bytes(self) -> int:
        return self._others + sum(self._open.values())

    def _free_bytes(self) -> int:
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize

    def count(self) -> Inventory:
        """Look at every file. Raises CacheError."""
        found = take_inventory(self._directory)
        with self._lock:
            self._open = {space: space.disk_bytes for space in self._open}
            open_files = {space.cache.data_path.name for space in self._open}
            self.inventory = found
            self._others = found.other_bytes + sum(
                size
                for blob in found.blobs.values()
                for kind, size in blob.files.items()
                if f"{blob.blob_id}.{kind}" not in open_files
            )
        return found
