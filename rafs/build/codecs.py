"""The compressors and digesters that an image can be built with: name -> codes on disk and function."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import NamedTuple

import blake3
import lz4.block
import zstandard

from native.rafs_v6 import (
    RAFS_CODEC_LZ4,
    RAFS_CODEC_NONE,
    RAFS_CODEC_ZSTD,
    RAFS_DIGEST_BLAKE3,
    RAFS_DIGEST_SHA256,
    RAFS_FLAG_COMPRESS_LZ4,
    RAFS_FLAG_COMPRESS_NONE,
    RAFS_FLAG_COMPRESS_ZSTD,
    RAFS_FLAG_DIGEST_BLAKE3,
    RAFS_FLAG_DIGEST_SHA256,
    RAFS_TOC_LZ4,
    RAFS_TOC_STORED,
    RAFS_TOC_ZSTD,
)

ZSTD_LEVEL = 3


class Compressor(NamedTuple):
    """`compress` may be called from any thread; it returns the plain bytes when the result is not smaller."""

    code: int
    filesystem_flag: int
    toc_flag: int
    compress: Callable[[bytes], bytes]


class Digester(NamedTuple):
    """`digest` returns 32 bytes."""

    code: int
    filesystem_flag: int
    digest: Callable[[bytes], bytes]


_zstd = threading.local()  # a ZstdCompressor serves one thread at a time


def _compress_zstd(data: bytes) -> bytes:
    compressor = getattr(_zstd, "compressor", None)
    if compressor is None:
        compressor = _zstd.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    packed: bytes = compressor.compress(data)
    return packed if len(packed) < len(data) else data


def _compress_lz4(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    return packed if len(packed) < len(data) else data


def _keep(data: bytes) -> bytes:
    return data


def _digest_blake3(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


def _digest_sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


COMPRESSORS = {
    "none": Compressor(RAFS_CODEC_NONE, RAFS_FLAG_COMPRESS_NONE, RAFS_TOC_STORED, _keep),
    "lz4_block": Compressor(RAFS_CODEC_LZ4, RAFS_FLAG_COMPRESS_LZ4, RAFS_TOC_LZ4, _compress_lz4),
    "zstd": Compressor(RAFS_CODEC_ZSTD, RAFS_FLAG_COMPRESS_ZSTD, RAFS_TOC_ZSTD, _compress_zstd),
}
DIGESTERS = {
    "blake3": Digester(RAFS_DIGEST_BLAKE3, RAFS_FLAG_DIGEST_BLAKE3, _digest_blake3),
    "sha256": Digester(RAFS_DIGEST_SHA256, RAFS_FLAG_DIGEST_SHA256, _digest_sha256),
}
