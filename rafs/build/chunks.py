"""The distinct chunks of one blob: deduplication, and the records that describe them.

Key of a chunk is (digest, size). Chunks are numbered in the order they enter; each takes a slot of the
uncompressed blob that starts on a 4 KiB boundary, directly after the one before it (format section 3.1).
"""

from __future__ import annotations

from array import array
from collections.abc import Container

from native.rafs_v6 import RAFS_CHUNK_COMPRESSED
from native.records import Record
from rafs.build.errors import BuildError

ALIGNMENT = 4096
MAX_CHUNKS = 0xFFFFFF
MAX_STORED = (1 << 40) - (1 << 30)  # a blob has 1 TiB; the last GiB is for its metadata
MAX_UNCOMPRESSED = 1 << 44

_CI = Record("rafs_ci_v1")
_CHUNK = Record("rafs_chunk_record")
_INDEX = Record("erofs_chunk_index")


def align(size: int) -> int:
    return (size + ALIGNMENT - 1) & -ALIGNMENT


def chunk_key(digest: bytes, size: int) -> bytes:
    return digest + size.to_bytes(4, "little")


def _ci_word(offset: int, size: int, high_bit: int) -> int:
    """One word of a v1 record: an offset, and a size minus one whose bits 20-23 stand apart at `high_bit`."""
    less = size - 1
    return (less & 0xFFFFF) << 44 | (less >> 20) << high_bit | offset


class ChunkStore:
    """Columns, one row a chunk, since images have millions of them."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, int] = {}
        self._digests: list[bytes] = []
        self._sizes = array("I")
        self._stored_sizes = array("I")
        self._offsets = array("Q")
        self._stored_offsets = array("Q")
        self._file_offsets = array("Q")
        self.uncompressed_size = 0

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def keys(self) -> Container[bytes]:
        """Which chunk_key()s are in; may be asked from any thread."""
        return self._by_key

    @property
    def data_size(self) -> int:
        """Bytes in all chunks together."""
        return sum(self._sizes)

    def find(self, key: bytes) -> int | None:
        return self._by_key.get(key)

    def offset(self, chunk: int) -> int:
        """Where `chunk` starts in the uncompressed blob."""
        return self._offsets[chunk]

    def add(self, key: bytes, size: int, stored_offset: int, stored_size: int, file_offset: int) -> int:
        """Enter a chunk that find() did not know; return its index.

        Raises BuildError at a limit of the format.
        """
        if len(self) >= MAX_CHUNKS:
            raise BuildError(f"more than {MAX_CHUNKS} distinct chunks in one blob; use a larger --chunk-size")
        if (
            stored_offset + stored_size > MAX_STORED
            or self.uncompressed_size + size > MAX_UNCOMPRESSED - ALIGNMENT
        ):
            raise BuildError(
                "the data does not fit one blob (1 TiB stored, 16 TiB plain); split the image into layers"
            )
        chunk = self._by_key[key] = len(self)
        self._digests.append(key[:32])
        self._sizes.append(size)
        self._stored_sizes.append(stored_size)
        self._offsets.append(self.uncompressed_size)
        self._stored_offsets.append(stored_offset)
        self._file_offsets.append(file_offset)
        self.uncompressed_size = align(self.uncompressed_size + size)
        return chunk

    def pack_ci(self) -> bytes:
        """The compression information, v1 records (format section 3.2)."""
        return b"".join(
            _CI.pack(
                uncompressed=_ci_word(offset, size, 8), compressed=_ci_word(stored_offset, stored_size, 40)
            )
            for offset, size, stored_offset, stored_size in zip(
                self._offsets, self._sizes, self._stored_offsets, self._stored_sizes, strict=True
            )
        )

    def pack_digests(self) -> bytes:
        """The digest array, in chunk order (format section 3.6)."""
        return b"".join(self._digests)

    def pack_indexes(self, chunks: array[int]) -> bytes:
        """The index array of a file made of `chunks` (format section 2.8)."""
        return b"".join(
            _INDEX.pack(
                ci_index_low=chunk & 0xFFFF,
                device_id=1,
                ci_index_high=chunk >> 16,
                blkaddr=self._offsets[chunk] // ALIGNMENT,
            )
            for chunk in chunks
        )

    def pack_table(self) -> bytes:
        """The chunk table of the bootstrap, by digest (format section 2.12); without the optional CRC32C."""
        return b"".join(
            _CHUNK.pack(
                digest=self._digests[chunk],
                flags=RAFS_CHUNK_COMPRESSED if self._stored_sizes[chunk] != self._sizes[chunk] else 0,
                compressed_size=self._stored_sizes[chunk],
                uncompressed_size=self._sizes[chunk],
                compressed_offset=self._stored_offsets[chunk],
                uncompressed_offset=self._offsets[chunk],
                file_offset=self._file_offsets[chunk],
                chunk_index=chunk,
            )
            for chunk in sorted(range(len(self)), key=self._digests.__getitem__)
        )
