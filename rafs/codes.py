"""How chunks are stored and digested: the codes that blob tables have for it, and no library that does it."""

from __future__ import annotations

import enum

from native import rafs_v6

Buffer = bytes | bytearray | memoryview

MAX_CHUNK_SIZE = 16 << 20
DIGEST_SIZE = 32


class Compressor(enum.IntEnum):
    """Codes of the blob table and the CI header (2.6, 5.2)."""

    NONE = rafs_v6.RAFS_CODEC_NONE
    LZ4_BLOCK = rafs_v6.RAFS_CODEC_LZ4
    GZIP = rafs_v6.RAFS_CODEC_GZIP
    ZSTD = rafs_v6.RAFS_CODEC_ZSTD


class Digester(enum.IntEnum):
    """Codes of the blob table (2.6)."""

    BLAKE3 = rafs_v6.RAFS_DIGEST_BLAKE3
    SHA256 = rafs_v6.RAFS_DIGEST_SHA256
