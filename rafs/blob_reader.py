"""One blob of an image, read without a cache: its chunk records, digests and plain chunks.

As the daemons do it (`blob_tail.py`, `chunk_table.py`, `fetch.py`), for tools that read a blob once: each
link of the chain of trust that the image has is checked. Blocking; may be used from many threads.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from native.chunk_table import RECORD
from native.rafs_v6 import RAFS_CHUNK_COMPRESSED, RAFS_TOC_STORED
from rafs.blob_meta import BlobMeta, Chunk, pack_meta_file, unpack_section
from rafs.blob_record import CI_HEADER_SIZE, BlobRecord, Feature
from rafs.blob_source import BlobSource
from rafs.chunk_table import BootstrapChunks
from rafs.codec import decode_chunk, verify_chunk
from rafs.codes import DIGEST_SIZE, Buffer, Compressor
from rafs.errors import ImageCorrupt, ImageUnsupported, RafsError
from rafs.toc import Toc, TocEntry, check_content, parse_toc, toc_range

#: of records, in memory at once: ten million chunks
MAX_META_SIZE = 160 << 20

DigestOf = Callable[[int], bytes | None]


class BlobReader:
    """See the module. `chunks` is what the bootstrap says (`rafs.Image.bootstrap_chunks`).

    `meta` and what is below it raise ImageCorrupt, ImageUnsupported, BlobUnavailable; a v5 blob needs no
    `source` for its records.
    """

    def __init__(
        self, record: BlobRecord, source: BlobSource, chunks: BootstrapChunks | Mapping[int, bytes] | None
    ) -> None:
        self.record = record
        self._source = source
        self._chunks = chunks
        self._lock = threading.Lock()
        self._loaded: tuple[_Records, DigestOf] | RafsError | None = None

    @property
    def size(self) -> int:
        """Of the stored blob."""
        return self._source.size(self.record.blob_id)

    def chunk(self, index: int) -> Chunk:
        """Return the checked record of a chunk."""
        return self._load()[0].chunk(index)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the records of all chunks; of v5, those that the image has."""
        return self._load()[0].all()

    def digest(self, index: int) -> bytes | None:
        """Return the digest of a chunk; None where the image carries none."""
        return self._load()[1](index)

    def raw(self, offset: int, length: int) -> bytes:
        """Return a piece of the stored blob."""
        return self._source.read(self.record.blob_id, offset, length)

    def stored(self, chunk: Chunk) -> bytes:
        """Return a chunk's bytes as the blob has them."""
        return self.raw(chunk.compressed_offset, chunk.compressed_size)

    def plain(self, chunk: Chunk) -> Buffer:
        """Return a chunk's plain bytes, verified if it has a digest. Raises BlobCorrupt too."""
        return self.decode(chunk, self.stored(chunk))

    def decode(self, chunk: Chunk, stored: Buffer) -> Buffer:
        """Return the plain bytes of a chunk as it is stored, as `plain` does."""
        compressor = self.record.compressor if chunk.is_compressed else Compressor.NONE
        plain = decode_chunk(stored, compressor=compressor, size=chunk.uncompressed_size)
        if digest := self.digest(chunk.chunk_idx):
            verify_chunk(plain, self.record.digester, digest)
        return plain

    def _load(self) -> tuple[_Records, DigestOf]:
        with self._lock:
            if self._loaded is None:
                try:
                    self._loaded = self._read_records()
                except RafsError as error:
                    self._loaded = error  # once is enough: a tool asks for every chunk
        if isinstance(self._loaded, RafsError):
            raise self._loaded
        return self._loaded

    def _read_records(self) -> tuple[_Records, DigestOf]:
        if isinstance(self._chunks, BootstrapChunks):
            listed = _Listed(self.record, self._chunks.records)
            return listed, listed.digest
        record, source = self.record, self._source
        if record.ci_uncompressed_size > MAX_META_SIZE:
            raise ImageUnsupported(f"blob {record.blob_id}: {record.chunk_count} chunks are too many here")
        toc = self._read_toc()
        size = record.ci_compressed_size + CI_HEADER_SIZE
        plain, header = unpack_section(record, source.read(record.blob_id, record.ci_offset, size))
        if toc is not None:
            self._check(self._entry(toc, "blob.meta"), plain)
            self._check(self._entry(toc, "blob.meta.header"), header)
        file = pack_meta_file(plain, header)
        meta = BlobMeta(record, lambda offset, length: file[offset : offset + length])
        return _Meta(meta), self._find_digests(toc)

    def _read_toc(self) -> Toc | None:
        record = self.record
        if not (Feature.HAS_TOC in record.features or record.toc_size or record.toc_digest):
            return None
        blob_size = self.size
        offset, length = toc_range(blob_size, record.toc_size)
        tail = self._source.read(record.blob_id, offset, length)
        try:
            return parse_toc(tail, blob_size, toc_size=record.toc_size, toc_digest=record.toc_digest)
        except ImageCorrupt as error:
            raise ImageCorrupt(f"blob {record.blob_id}: {error}") from None

    def _entry(self, toc: Toc | None, name: str) -> TocEntry:
        entry = toc.find(name) if toc else None
        if entry is None:
            raise ImageCorrupt(f"blob {self.record.blob_id}: its TOC has no {name!r}, which it must have")
        return entry

    def _check(self, entry: TocEntry, content: bytes) -> None:
        try:
            check_content(entry, content)
        except ImageCorrupt as error:
            raise ImageCorrupt(f"blob {self.record.blob_id}: {error}") from None

    def _find_digests(self, toc: Toc | None) -> DigestOf:
        record = self.record
        table = self._chunks if isinstance(self._chunks, Mapping) else {}
        if Feature.INLINED_CHUNK_DIGEST not in record.features:
            return table.get
        entry = self._entry(toc, "blob.digest")
        if entry.codec != RAFS_TOC_STORED or entry.stored_size != record.chunk_count * DIGEST_SIZE:
            raise ImageCorrupt(f"blob {record.blob_id}: its blob.digest has {entry.stored_size} bytes")
        content = self._source.read(record.blob_id, entry.offset, entry.stored_size)
        self._check(entry, content)

        def inlined(index: int) -> bytes | None:
            return content[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]

        if toc is not None and toc.is_authentic:
            return inlined
        return lambda index: table.get(index) or inlined(index)


class _Meta:
    """Records out of a blob.meta."""

    def __init__(self, meta: BlobMeta) -> None:
        self._meta = meta

    def chunk(self, index: int) -> Chunk:
        return self._meta.chunk(index)

    def all(self) -> Iterator[Chunk]:
        for first in range(0, len(self._meta), _STEP):
            yield from self._meta.chunks(first, min(_STEP, len(self._meta) - first))


class _Listed:
    """Records that a v5 bootstrap has, sorted by chunk index."""

    def __init__(self, record: BlobRecord, records: bytes) -> None:
        self._record = record
        self._records = records

    def _parse(self, position: int) -> tuple[Chunk, bytes]:
        raw = RECORD.parse(self._records, position * RECORD.size)
        is_compressed = bool(raw.flags & RAFS_CHUNK_COMPRESSED)
        chunk = Chunk(
            raw.chunk_index,
            raw.uncompressed_offset,
            raw.uncompressed_size,
            raw.compressed_offset,
            raw.compressed_size,
            is_compressed,
        )
        return chunk, raw.digest

    def _find(self, index: int) -> tuple[Chunk, bytes]:
        positions = range(len(self._records) // RECORD.size)
        at = bisect_left(positions, index, key=lambda position: self._parse(position)[0].chunk_idx)
        if at < len(positions):
            found = self._parse(at)
            if found[0].chunk_idx == index:
                return found
        raise ImageCorrupt(f"blob {self._record.blob_id}: no file has chunk {index}")

    def chunk(self, index: int) -> Chunk:
        return self._find(index)[0]

    def digest(self, index: int) -> bytes | None:
        return self._find(index)[1]

    def all(self) -> Iterator[Chunk]:
        for position in range(len(self._records) // RECORD.size):
            yield self._parse(position)[0]


_Records = _Meta | _Listed
_STEP = 4096
