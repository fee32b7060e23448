"""Where chunks with a given digest may lie: native/c/digest_index.h."""

from __future__ import annotations

from mmap import mmap

from native._dataplane import ffi, lib
from native.handle import Handle

DIGEST_SIZE = 32


class DigestIndex(Handle):
    """(digest -> blob, chunk) for about `capacity` chunks, 16 bytes each; older ones are forgotten."""

    def __init__(self, capacity: int) -> None:
        pointer = lib.vfs_digest_index_new(capacity)
        if pointer == ffi.NULL:
            raise MemoryError(f"an index of {capacity} chunks")
        super().__init__(pointer)

    def add(self, digest: bytes, blob: int, chunk: int) -> None:
        """Both numbers are the caller's. Raises ValueError for what is no digest."""
        lib.vfs_digest_index_add(self.c, _checked(digest), blob, chunk)

    def add_all(self, blob: int, digests: bytes | mmap, ready: bytes, count: int) -> None:
        """Chunks of a blob whose bits are set in `ready`, in the order of a chunk map."""
        c_digests, c_ready = ffi.from_buffer(digests), ffi.from_buffer(ready)
        if len(c_digests) < count * DIGEST_SIZE or len(c_ready) * 8 < count:
            raise ValueError(f"{len(c_digests)} bytes of digests, {len(c_ready)} of bits for {count} chunks")
        c_digests = ffi.cast("const uint8_t *", c_digests)
        lib.vfs_digest_index_add_all(self.c, blob, c_digests, ffi.cast("const uint8_t *", c_ready), count)

    def find(self, digest: bytes) -> list[tuple[int, int]]:
        """Where a chunk of that digest was, the newest place first: (blob, chunk)."""
        blobs, chunks = ffi.new("uint32_t[4]"), ffi.new("uint32_t[4]")
        count = lib.vfs_digest_index_find(self.c, _checked(digest), blobs, chunks)
        return list(zip(blobs[0:count], chunks[0:count], strict=True))

    def close(self) -> None:
        if not self.closed:
            lib.vfs_digest_index_free(self._take())


def _checked(digest: bytes) -> bytes:
    if len(digest) != DIGEST_SIZE:
        raise ValueError(f"a digest of {len(digest)} bytes")
    return digest
