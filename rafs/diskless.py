"""What takes the place of files that a full disk has no room for: memory, so that a blob is served anyway."""

from __future__ import annotations

import fcntl
import logging
import os

from rafs.cache import CachedBlob
from rafs.errors import CacheFull

log = logging.getLogger(__name__)


def keep_metadata(cache: CachedBlob, kind: str, content: bytes, *, verified_on_use: bool) -> int:
    """Store `<id>.blob.<kind>`; return a descriptor of what it is now, in memory where the disk is full.

    Raises CacheError.
    """
    if store_if_there_is_room(cache, kind, content, verified_on_use=verified_on_use):
        return os.open(cache.metadata_path(kind), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    return _in_memory(f"vhostfs-{cache.record.blob_id[:12]}.{kind}", content)


def store_if_there_is_room(cache: CachedBlob, kind: str, content: bytes, *, verified_on_use: bool) -> bool:
    """Store it, after room was made for it if need be; False where there is none. Raises CacheError."""
    for _ in range(2):
        try:
            cache.store_metadata(kind, content, verified_on_use=verified_on_use)
            return True
        except CacheFull as error:
            if not cache.make_room(len(content)):
                log.warning("%s; it is kept in memory", error)
                break
    return False


class DisklessBlob(CachedBlob):
    """A blob whose cache files could not be made: what there is of it is served from its area in memory.

    It is so until it is closed. `data_fd` and `chunk_map_fd` are there, and stay empty.
    """

    def open_files(self) -> None:
        """Of memory."""
        self.data_fd = _in_memory(f"vhostfs-{self.record.blob_id[:12]}.none", b"")
        os.ftruncate(self.data_fd, self.record.uncompressed_size)
        self.chunk_map_fd = _in_memory(f"vhostfs-{self.record.blob_id[:12]}.nomap", b"")
        os.ftruncate(self.chunk_map_fd, self._map_size)
        self._write_map_header()

    def prepare(self) -> None:
        """Nothing may become READY on the disk."""
        raise CacheFull(f"{self.data_path} could not be made: the disk is full")

    def settle(self) -> bool:
        return True

    def store_metadata(self, kind: str, content: bytes, *, verified_on_use: bool) -> None:
        raise CacheFull(f"{self.metadata_path(kind)} cannot be made: the disk is full")


def _in_memory(name: str, content: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    if content:
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
