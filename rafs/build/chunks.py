"""The distinct chunks that an image refers to: deduplication, and the records that describe them.

Key of a chunk is (digest, size). Rows are numbered in the order they enter. Most belong to the blob that is
being written, which has number `OWN`: there each takes a slot of the uncompressed blob that starts on a 4 KiB
boundary, directly after the one before it (format section 3.1). Others lie in blobs of other images: those of
a chunk dictionary, or of the layers that are merged.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from native.rafs_v6 import RAFS_CHUNK_COMPRESSED
from native.records import Record
from rafs.build.blob_facts import BlobFacts
from rafs.build.errors import BuildError

ALIGNMENT = 4096
MAX_CHUNKS = 0xFFFFFF
MAX_STORED = (1 << 40) - (1 << 30)  # a blob has 1 TiB; the last GiB is for its metadata
MAX_UNCOMPRESSED = 1 << 44
MAX_BLOBS = 254
OWN = 0

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


@dataclass(frozen=True, slots=True)
class BlobTable:
    """The blobs of one image in their order, and which place each number has there; the `rows` in use."""

    facts: list[BlobFacts]
    places: dict[int, int]
    rows: list[int]


class ChunkStore:
    """Columns, one row a chunk, since images have millions of them.

    `alignment` is that of chunks in the uncompressed blob: v5 packs them one behind the other.
    """

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self._alignment = alignment
        self._by_key: dict[bytes, int] = {}
        self._digests: list[bytes] = []
        self._blobs = array("H")
        self._indexes = array("I")  # in its blob
        self._sizes = array("I")
        self._stored_sizes = array("I")
        self._offsets = array("Q")
        self._stored_offsets = array("Q")
        self._file_offsets = array("Q")
        self._flags = array("I")
        self._crcs = array("I")
        self.own_count = 0
        self.uncompressed_size = 0  # of the blob being written
        self._facts: list[BlobFacts | None] = [None]
        self._numbers: dict[str, int] = {}

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

    def blob(self, chunk: int) -> int:
        """The number of the blob that `chunk` lies in."""
        return self._blobs[chunk]

    def index(self, chunk: int) -> int:
        """The number of `chunk` in its blob."""
        return self._indexes[chunk]

    def key(self, chunk: int) -> bytes:
        """Its chunk_key()."""
        return chunk_key(self._digests[chunk], self._sizes[chunk])

    def record(self, chunk: int) -> Any:
        """It as a parsed `struct rafs_chunk_record`, with the number of its blob."""
        return _CHUNK.parse(
            self._pack_record(chunk, {self._blobs[chunk]: self._blobs[chunk]}, self._file_offsets[chunk])
        )

    def facts(self, blob: int) -> BlobFacts:
        """What is known of blob number `blob`, which is finished or another image's."""
        facts = self._facts[blob]
        assert facts is not None
        return facts

    def offset(self, chunk: int) -> int:
        """Where `chunk` starts in its uncompressed blob."""
        return self._offsets[chunk]

    def add(self, key: bytes, size: int, stored_offset: int, stored_size: int, file_offset: int) -> int:
        """Enter a chunk of the blob being written that find() did not know; return its row.

        Raises BuildError at a limit of the format.
        """
        if self.own_count >= MAX_CHUNKS:
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
        self._blobs.append(OWN)
        self._indexes.append(self.own_count)
        self._sizes.append(size)
        self._stored_sizes.append(stored_size)
        self._offsets.append(self.uncompressed_size)
        self._stored_offsets.append(stored_offset)
        self._file_offsets.append(file_offset)
        self._flags.append(RAFS_CHUNK_COMPRESSED if stored_size != size else 0)
        self._crcs.append(0)
        self.own_count += 1
        end = self.uncompressed_size + size
        self.uncompressed_size = (end + self._alignment - 1) & -self._alignment
        return chunk

    def add_blob(self, facts: BlobFacts) -> int:
        """Enter a blob of another image, if it is not in; return its number."""
        number = self._numbers.get(facts.blob_id)
        if number is None:
            number = self._numbers[facts.blob_id] = len(self._facts)
            self._facts.append(facts)
        return number

    def add_foreign(self, blob: int, record: Any) -> int:
        """Enter a chunk of blob number `blob` by its parsed `struct rafs_chunk_record`; return its row.

        A chunk that is in already, whichever blob has it, is not entered again; one without a digest is.
        """
        key = chunk_key(record.digest, record.uncompressed_size)
        has_digest = any(record.digest)
        if has_digest and (known := self._by_key.get(key)) is not None:
            return known
        chunk = len(self)
        if has_digest:
            self._by_key[key] = chunk
        self._digests.append(record.digest)
        self._blobs.append(blob)
        self._indexes.append(record.chunk_index)
        self._sizes.append(record.uncompressed_size)
        self._stored_sizes.append(record.compressed_size)
        self._offsets.append(record.uncompressed_offset)
        self._stored_offsets.append(record.compressed_offset)
        self._file_offsets.append(record.file_offset)
        self._flags.append(record.flags)
        self._crcs.append(record.crc32c)
        return chunk

    def finish_own(self, facts: BlobFacts) -> None:
        """The blob being written is complete."""
        self._facts[OWN] = facts

    def used(self, files: Iterable[array[int]]) -> BlobTable:
        """The blobs that the chunks of `files` lie in, in the order of first use."""
        rows: set[int] = set()
        order: dict[int, None] = {}
        for chunks in files:
            rows.update(chunks)
            order.update(dict.fromkeys(self._blobs[chunk] for chunk in chunks))
        if len(order) > MAX_BLOBS:
            raise BuildError(
                f"the image would need {len(order)} blobs, RAFS has room for {MAX_BLOBS}; "
                "merge fewer layers, or build with a chunk dictionary of fewer blobs"
            )
        facts = []
        for number in order:
            one = self._facts[number]
            assert one is not None  # chunks of the own blob are used after it was finished
            facts.append(one)
        return BlobTable(facts, {number: place for place, number in enumerate(order)}, sorted(rows))

    def own_rows(self) -> list[int]:
        return [row for row, blob in enumerate(self._blobs) if blob == OWN]

    def pack_ci(self) -> bytes:
        """The compression information of the own blob, v1 records (format section 3.2)."""
        return b"".join(
            _CI.pack(
                uncompressed=_ci_word(self._offsets[row], self._sizes[row], 8),
                compressed=_ci_word(self._stored_offsets[row], self._stored_sizes[row], 40),
            )
            for row in self.own_rows()
        )

    def pack_digests(self) -> bytes:
        """The digest array of the own blob, in chunk order (format section 3.6)."""
        return b"".join(self._digests[row] for row in self.own_rows())

    def pack_indexes(self, chunks: array[int], table: BlobTable) -> bytes:
        """The index array of a file made of `chunks` (format section 2.8)."""
        blobs, indexes, offsets, places = self._blobs, self._indexes, self._offsets, table.places
        return b"".join(
            _INDEX.pack(
                ci_index_low=indexes[chunk] & 0xFFFF,
                device_id=places[blobs[chunk]] + 1,
                ci_index_high=indexes[chunk] >> 16,
                blkaddr=offsets[chunk] // ALIGNMENT,
            )
            for chunk in chunks
        )

    def pack_table(self, table: BlobTable) -> bytes:
        """The chunk table of the bootstrap, by digest and blob (format section 2.12)."""
        places = table.places
        return b"".join(
            self._pack_record(chunk, places, self._file_offsets[chunk])
            for chunk in sorted(table.rows, key=lambda row: (self._digests[row], places[self._blobs[row]]))
        )

    def pack_records(self, chunks: array[int], table: BlobTable, chunk_size: int) -> bytes:
        """v5: the chunk records of a file made of `chunks` (format section 4.6)."""
        return b"".join(
            self._pack_record(chunk, table.places, number * chunk_size) for number, chunk in enumerate(chunks)
        )

    def pack_digests_of(self, chunks: array[int]) -> bytes:
        """The digests of a file's chunks, in order."""
        return b"".join(self._digests[chunk] for chunk in chunks)

    def _pack_record(self, chunk: int, places: dict[int, int], file_offset: int) -> bytes:
        return _CHUNK.pack(
            digest=self._digests[chunk],
            blob_index=places[self._blobs[chunk]],
            flags=self._flags[chunk],
            compressed_size=self._stored_sizes[chunk],
            uncompressed_size=self._sizes[chunk],
            compressed_offset=self._stored_offsets[chunk],
            uncompressed_offset=self._offsets[chunk],
            file_offset=file_offset,
            chunk_index=self._indexes[chunk],
            crc32c=self._crcs[chunk],
        )
