"""The data blob: chunks first, then what describes them.

    chunk data | header | CI records, CI header | header | digests | header | TOC | header

With compressor "none" each chunk starts on a 4 KiB boundary of the file, so that stored and uncompressed
offsets are equal and the file itself serves as the EROFS device. The blob id is the SHA-256 of the
whole file, and is known only when the last byte is.
"""

from __future__ import annotations

import hashlib

from native.rafs_v6 import (
    RAFS_BLOB_ALIGNED,
    RAFS_BLOB_CAP_TAR_TOC,
    RAFS_BLOB_HAS_TAR_HEADER,
    RAFS_BLOB_HAS_TOC,
    RAFS_BLOB_INLINED_CHUNK_DIGEST,
    RAFS_CI_MAGIC,
    RAFS_CODEC_NONE,
    RAFS_TOC_STORED,
)
from native.records import Record
from rafs.build.blob_facts import BlobFacts
from rafs.build.chunks import ALIGNMENT, ChunkStore, align
from rafs.build.codecs import Compressor, Digester
from rafs.build.output import PendingFile
from rafs.build.sections import (
    BLOB_DATA,
    CHUNK_DIGESTS,
    CI_DATA,
    CI_HEADER,
    TOC,
    pack_tar_header,
    pack_toc_entry,
    sha256,
)

FEATURES = (
    RAFS_BLOB_ALIGNED
    | RAFS_BLOB_INLINED_CHUNK_DIGEST
    | RAFS_BLOB_HAS_TAR_HEADER
    | RAFS_BLOB_HAS_TOC
    | RAFS_BLOB_CAP_TAR_TOC
)
_FLUSH_SIZE = 1 << 20
_CI_HEADER = Record("rafs_ci_header")


class BlobWriter:
    """Writes one blob front to back: `append` each chunk in order, then `finish` once.

    `alignment` is that of chunks in the uncompressed blob.
    """

    alignment = ALIGNMENT

    def __init__(self, file: PendingFile, compressor: Compressor, digester: Digester) -> None:
        self._file = file
        self._compressor = compressor
        self._digester = digester
        self._is_device = compressor.code == RAFS_CODEC_NONE and self.alignment == ALIGNMENT
        self._sha256 = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self.offset = 0

    def _write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_size += len(data)
        self.offset += len(data)
        if self._waiting_size >= _FLUSH_SIZE:
            self._flush()

    def _flush(self) -> None:
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._sha256.update(data)
        self._file.write(data)
        self._waiting.clear()
        self._waiting_size = 0

    def append(self, stored: bytes) -> int:
        """Write a chunk as it is stored; return its offset in the blob."""
        offset = self.offset
        self._write(stored)
        if self._is_device and (padding := align(self.offset) - self.offset):
            self._write(bytes(padding))
        return offset

    def finish(self, chunks: ChunkStore) -> BlobFacts:
        """Write everything after the chunk data."""
        self._flush()
        data_size = self.offset
        data_digest = self._sha256.digest()
        self._write(pack_tar_header(BLOB_DATA, data_size))

        ci = chunks.pack_ci()
        stored_ci = self._compressor.compress(ci)
        is_raw = len(stored_ci) == len(ci)
        ci_offset = self.offset
        ci_header = _CI_HEADER.pack(
            magic=RAFS_CI_MAGIC,
            features=FEATURES,
            compressor=RAFS_CODEC_NONE if is_raw else self._compressor.code,
            entries=chunks.own_count,
            offset=ci_offset,
            compressed_size=len(stored_ci),
            uncompressed_size=len(ci),
            magic2=RAFS_CI_MAGIC,
        )
        self._write(stored_ci)
        self._write(ci_header)
        self._write(pack_tar_header(CI_DATA, len(stored_ci) + len(ci_header)))

        digests = chunks.pack_digests()
        digests_offset = self.offset
        self._write(digests)
        self._write(pack_tar_header(CHUNK_DIGESTS, len(digests)))

        entries = [
            pack_toc_entry(
                BLOB_DATA,
                flags=RAFS_TOC_STORED,
                digest=data_digest,
                offset=0,
                stored_size=data_size,
                uncompressed_size=chunks.uncompressed_size,
            ),
            pack_toc_entry(
                CI_DATA,
                flags=RAFS_TOC_STORED if is_raw else self._compressor.toc_flag,
                digest=sha256(ci),
                offset=ci_offset,
                stored_size=len(stored_ci),
                uncompressed_size=len(ci),
            ),
        ]
        for name, content, offset in (
            (CI_HEADER, ci_header, ci_offset + len(stored_ci)),
            (CHUNK_DIGESTS, digests, digests_offset),
        ):
            entries.append(
                pack_toc_entry(
                    name,
                    flags=RAFS_TOC_STORED,
                    digest=sha256(content),
                    offset=offset,
                    stored_size=len(content),
                    uncompressed_size=len(content),
                )
            )
        toc_entries = b"".join(entries)
        toc = toc_entries + pack_tar_header(TOC, len(toc_entries))
        self._write(toc)
        self._flush()
        return BlobFacts(
            blob_id=self._sha256.hexdigest(),
            size=self.offset,
            uncompressed_size=chunks.uncompressed_size,
            chunk_count=chunks.own_count,
            compressor=self._compressor.code,
            digester=self._digester.code,
            features=FEATURES,
            ci_compressor=RAFS_CODEC_NONE if is_raw else self._compressor.code,
            ci_offset=ci_offset,
            ci_stored_size=len(stored_ci),
            ci_size=len(ci),
            toc_size=len(toc),
            toc_digest=sha256(toc),
        )
