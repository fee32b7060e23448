"""Recording the first accesses to an image's chunks: native/c/trace.h."""

from __future__ import annotations

from native._dataplane import ffi, lib
from native.handle import Handle
from native.image import Image
from native.records import Record

TRACE_HEADER = Record("vfs_trace_header")
TRACE_RECORD = Record("vfs_trace_record")
TRACE_MAGIC: int = lib.VFS_TRACE_MAGIC
TRACE_VERSION: int = lib.VFS_TRACE_VERSION
TRACE_MISSED: int = lib.VFS_TRACE_MISSED
MAX_TRACE_RECORDS: int = lib.VFS_TRACE_MAX_RECORDS
MAX_TRACE_BLOBS: int = lib.VFS_TRACE_MAX_BLOBS


class TraceLog(Handle):
    """What `Device.set_trace` records to. `close` it when no mount does any more.

    `capacity`: accesses that have room; what comes later is counted only.
    """

    def __init__(self, image: Image, capacity: int = MAX_TRACE_RECORDS) -> None:
        pointer = lib.vfs_trace_new(image.c, capacity)
        if pointer == ffi.NULL:
            raise MemoryError
        super().__init__(pointer)
        self._capacity = capacity

    def read(self, first: int = 0) -> bytes:
        """The records from number `first` on, each of TRACE_RECORD.size bytes. At any time."""
        count, buffer = 0, bytearray()
        chunk = ffi.new("struct vfs_trace_record[4096]")
        while count := lib.vfs_trace_read(self.c, first, chunk, 4096):
            buffer += ffi.buffer(chunk, count * TRACE_RECORD.size)
            first += count
        return bytes(buffer)

    @property
    def dropped(self) -> int:
        """Accesses that found no room."""
        return int(lib.vfs_trace_dropped(self.c))

    @property
    def duration_ns(self) -> int:
        """Since the recording began."""
        return int(lib.vfs_trace_duration_ns(self.c))

    def close(self) -> None:
        if not self.closed:
            lib.vfs_trace_free(self._take())
