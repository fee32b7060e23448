"""One entry of a bootstrap's blob table, checked: which blob, how chunks are stored, where its metadata is.

RAFS format specification, 1.5 (feature bits), 1.6 and 9.3.1 (blob ids), 2.6 (the entry). Everything that
handles a blob takes a BlobRecord, so nothing past this file sees an unchecked size, code or id.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any

from native import rafs_v6
from rafs.codes import MAX_CHUNK_SIZE, Compressor, Digester
from rafs.errors import ImageCorrupt, ImageUnsupported

MAX_CHUNKS = 1 << 24
MAX_COMPRESSED_SIZE = 1 << 40
MAX_UNCOMPRESSED_SIZE = 1 << 44
MIN_CHUNK_SIZE = 4096
SLOT = 4096  # an uncompressed chunk starts on this boundary
TAR_HEADER_SIZE = 512
CI_HEADER_SIZE = 4096
CI_V1_SIZE = 16
CI_V2_SIZE = 24
TOC_SIZES = range(TAR_HEADER_SIZE, (64 << 10) + 1, 128)

_BLOB_ID = re.compile(r"[0-9a-f]{64}")


class Feature(enum.IntFlag):
    """Feature bits of a blob (1.5)."""

    ALIGNED = rafs_v6.RAFS_BLOB_ALIGNED
    INLINED_FS_META = rafs_v6.RAFS_BLOB_INLINED_FS_META
    CHUNK_INFO_V2 = rafs_v6.RAFS_BLOB_CHUNK_INFO_V2
    ZRAN = rafs_v6.RAFS_BLOB_ZRAN
    SEPARATE = rafs_v6.RAFS_BLOB_SEPARATE
    INLINED_CHUNK_DIGEST = rafs_v6.RAFS_BLOB_INLINED_CHUNK_DIGEST
    TARFS = rafs_v6.RAFS_BLOB_TARFS
    BATCH = rafs_v6.RAFS_BLOB_BATCH
    ENCRYPTED = rafs_v6.RAFS_BLOB_ENCRYPTED
    CHUNKDICT_GENERATED = rafs_v6.RAFS_BLOB_CHUNKDICT_GENERATED
    SEPARATED_PREFETCH = rafs_v6.RAFS_BLOB_SEPARATED_PREFETCH
    EXTERNAL = rafs_v6.RAFS_BLOB_EXTERNAL
    HAS_TAR_HEADER = rafs_v6.RAFS_BLOB_HAS_TAR_HEADER
    HAS_TOC = rafs_v6.RAFS_BLOB_HAS_TOC
    CAP_TAR_TOC = rafs_v6.RAFS_BLOB_CAP_TAR_TOC


_KNOWN_INCOMPATIBLE = 0x0FFF
_INCOMPATIBLE = 0xFFFF
_INTERNAL = 0x80000000
_UNSUPPORTED = {
    Feature.ZRAN: "chunks inside a gzip stream (zran)",
    Feature.SEPARATE: "data kept in the original OCI layer",
    Feature.TARFS: "a raw tar as blob (tarfs)",
    Feature.BATCH: "batched chunks",
    Feature.ENCRYPTED: "encrypted chunks",
    Feature.CHUNKDICT_GENERATED: "a generated chunk dictionary",
    Feature.EXTERNAL: "data in an external back-end",
}


def parse_blob_id(raw: bytes | str) -> str:
    """Return the blob id in a NUL padded field, or given as text.

    An id becomes a file name and a part of URLs, so only 64 lower-case hex characters pass.
    Raises ImageCorrupt.
    """
    text = raw.rstrip(b"\0").decode("ascii", "backslashreplace") if isinstance(raw, bytes) else raw
    if not _BLOB_ID.fullmatch(text):
        raise ImageCorrupt(f"blob id {text[:80]!r} is not 64 lower-case hex characters")
    return text


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """A checked blob table entry. Sizes and offsets in bytes; `toc_digest` is None where it is all zero."""

    blob_id: str
    blob_idx: int
    chunk_size: int
    chunk_count: int
    compressor: Compressor
    digester: Digester
    features: Feature
    compressed_size: int
    uncompressed_size: int
    toc_size: int
    toc_digest: bytes | None
    ci_compressor: Compressor
    ci_offset: int
    ci_compressed_size: int
    ci_uncompressed_size: int
    fs_version: int = 6

    @property
    def ci_record_size(self) -> int:
        return CI_V2_SIZE if Feature.CHUNK_INFO_V2 in self.features else CI_V1_SIZE

    @property
    def has_vouched_digests(self) -> bool:
        """The blob has a digest of each chunk, which the blob table vouches for: no chunk table is needed."""
        return self.toc_digest is not None and Feature.INLINED_CHUNK_DIGEST in self.features

    @property
    def chunk_data_end(self) -> int:
        """Upper bound of compressed offsets (1.5, "end of chunk data")."""
        if Feature.CAP_TAR_TOC not in self.features:
            return self.compressed_size
        end = self.ci_offset if self.fs_version == 6 else self.compressed_size
        return end - (TAR_HEADER_SIZE if Feature.HAS_TAR_HEADER in self.features else 0)

    @classmethod
    def parse(cls, entry: Any, *, blob_id: str | None = None, fs_version: int = 6) -> BlobRecord:
        """Check one parsed `struct rafs_v6_blob`; that of a v5 image has no blob.meta.

        `blob_id` replaces the stored id where the image is opened by its file name (1.6).
        Raises ImageCorrupt for a value the format forbids, ImageUnsupported for a feature we lack.
        """
        name = parse_blob_id(entry.blob_id if blob_id is None else blob_id)

        def corrupt(reason: str) -> ImageCorrupt:
            return ImageCorrupt(f"blob {name}: {reason}")

        features = entry.features
        if features & _INTERNAL or features & _INCOMPATIBLE & ~_KNOWN_INCOMPATIBLE:
            raise ImageUnsupported(
                f"blob {name}: unknown feature bits in {features:#x}; a newer vhostfs may know them"
            )
        for bit, what in _UNSUPPORTED.items():
            if features & bit:
                raise ImageUnsupported(f"blob {name}: {what} cannot be read yet; build the image without it")
        if entry.cipher_algo:
            raise ImageUnsupported(f"blob {name}: cipher {entry.cipher_algo} is not supported")
        is_v6 = fs_version == 6
        if is_v6 and not features & Feature.ALIGNED:
            raise corrupt("chunks are not aligned to 4096 bytes")
        if entry.chunk_count > MAX_CHUNKS or (is_v6 and not entry.chunk_count):
            raise corrupt(f"chunk count {entry.chunk_count} is not in 1..{MAX_CHUNKS}")
        size = entry.chunk_size
        if size & (size - 1) or not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
            raise corrupt(f"chunk size {size} is not a power of two in {MIN_CHUNK_SIZE}..{MAX_CHUNK_SIZE}")
        if entry.compression_algo not in iter(Compressor) or entry.ci_compressor not in iter(Compressor):
            raise ImageUnsupported(
                f"blob {name}: compressor {entry.compression_algo} or, of blob.meta, {entry.ci_compressor}"
            )
        if entry.digest_algo not in iter(Digester):
            raise ImageUnsupported(f"blob {name}: digest code {entry.digest_algo}")
        if entry.compressed_size > MAX_COMPRESSED_SIZE:
            raise corrupt(f"compressed size {entry.compressed_size} is over {MAX_COMPRESSED_SIZE}")
        if is_v6 and (not entry.uncompressed_size or entry.uncompressed_size % SLOT):
            raise corrupt(f"uncompressed size {entry.uncompressed_size} is not a positive multiple of {SLOT}")
        if entry.uncompressed_size > MAX_UNCOMPRESSED_SIZE:
            raise corrupt(f"uncompressed size {entry.uncompressed_size} is over {MAX_UNCOMPRESSED_SIZE}")
        if entry.toc_size and entry.toc_size not in TOC_SIZES:
            raise corrupt(f"TOC size {entry.toc_size} is not a multiple of 128 in 512..65536")
        record = cls(
            blob_id=name,
            blob_idx=entry.blob_index,
            chunk_size=size,
            chunk_count=entry.chunk_count,
            compressor=Compressor(entry.compression_algo),
            digester=Digester(entry.digest_algo),
            features=Feature(features),
            compressed_size=entry.compressed_size,
            uncompressed_size=entry.uncompressed_size,
            toc_size=entry.toc_size,
            toc_digest=entry.toc_digest if any(entry.toc_digest) else None,
            ci_compressor=Compressor(entry.ci_compressor),
            ci_offset=entry.ci_offset,
            ci_compressed_size=entry.ci_compressed_size,
            ci_uncompressed_size=entry.ci_uncompressed_size,
            fs_version=fs_version,
        )
        if record.chunk_data_end < 0:
            raise corrupt("it has no room for its tar header")
        if is_v6:
            record._check_ci()
        return record

    def _check_ci(self) -> None:
        """Raise ImageCorrupt unless the place of blob.meta can be."""

        def corrupt(reason: str) -> ImageCorrupt:
            return ImageCorrupt(f"blob {self.blob_id}: {reason}")

        stored, plain = self.ci_compressed_size, self.ci_uncompressed_size
        if plain != self.ci_record_size * self.chunk_count:
            raise corrupt(
                f"blob.meta has {plain} bytes for {self.chunk_count} records of {self.ci_record_size}"
            )
        if not 0 < stored <= plain or (self.ci_compressor is Compressor.NONE and stored != plain):
            raise corrupt(f"blob.meta is stored in {stored} bytes, plain {plain}")
        if self.ci_offset + stored + CI_HEADER_SIZE > MAX_COMPRESSED_SIZE + (1 << 30):
            raise corrupt(f"blob.meta at {self.ci_offset} lies outside of any blob")
