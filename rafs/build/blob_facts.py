"""What a bootstrap says about one of its blobs: the entry of the blob table (format section 2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from native.records import Record

_BLOB = Record("rafs_v6_blob")
_NONE = bytes(32)


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """Sizes and offsets in bytes; codes as on disk. A blob of another image is said as that image does."""

    blob_id: str
    size: int
    uncompressed_size: int
    chunk_count: int
    compressor: int
    digester: int
    features: int
    ci_compressor: int
    ci_offset: int
    ci_stored_size: int
    ci_size: int
    toc_size: int
    toc_digest: bytes
    meta_digest: bytes = _NONE  # of a blob whose data lies elsewhere; the key of an encrypted one
    meta_size: int = 0
    cipher_iv_high: int = 0
    cipher: int = 0

    @classmethod
    def parse(cls, entry: Any) -> BlobFacts:
        """Take over a parsed `struct rafs_v6_blob`."""
        return cls(
            blob_id=entry.blob_id.decode(),
            size=entry.compressed_size,
            uncompressed_size=entry.uncompressed_size,
            chunk_count=entry.chunk_count,
            compressor=entry.compression_algo,
            digester=entry.digest_algo,
            features=entry.features,
            ci_compressor=entry.ci_compressor,
            ci_offset=entry.ci_offset,
            ci_stored_size=entry.ci_compressed_size,
            ci_size=entry.ci_uncompressed_size,
            toc_size=entry.toc_size,
            toc_digest=entry.toc_digest,
            meta_digest=entry.meta_digest,
            meta_size=entry.meta_size,
            cipher_iv_high=entry.cipher_iv_high,
            cipher=entry.cipher_algo,
        )

    def pack(self, index: int, chunk_size: int) -> bytes:
        """The entry at place `index` of the table."""
        return _BLOB.pack(
            blob_id=self.blob_id.encode(),
            blob_index=index,
            chunk_size=chunk_size,
            chunk_count=self.chunk_count,
            compression_algo=self.compressor,
            digest_algo=self.digester,
            features=self.features,
            compressed_size=self.size,
            uncompressed_size=self.uncompressed_size,
            toc_size=self.toc_size,
            ci_compressor=self.ci_compressor,
            ci_offset=self.ci_offset,
            ci_compressed_size=self.ci_stored_size,
            ci_uncompressed_size=self.ci_size,
            toc_digest=self.toc_digest,
            meta_digest=self.meta_digest,
            meta_size=self.meta_size,
            cipher_iv_high=self.cipher_iv_high,
            cipher_algo=self.cipher,
        )
