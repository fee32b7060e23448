"""The data blob, read by a parser that shares nothing with the writer."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest

from rafs.build import BuildOptions, build_image
from tests.blobs import DIGESTS, ChunkRecord, parse_blob, plain_chunk

CODECS = {"none": 0, "lz4_block": 1, "zstd": 3}


@pytest.mark.parametrize("compressor", CODECS)
@pytest.mark.parametrize(("digester", "chunk_size"), [("blake3", 4096), ("sha256", 1 << 20)])
def test_every_piece_of_a_blob(
    nasty_tree: Path, tmp_path: Path, compressor: str, digester: str, chunk_size: int
) -> None:
    codec = CODECS[compressor]
    result = build_image(nasty_tree, tmp_path / "b", tmp_path, BuildOptions(compressor, digester, chunk_size))
    assert result.blob is not None and result.blob_path is not None
    blob = parse_blob(result.blob_path)
    assert hashlib.sha256(blob.content).hexdigest() == result.blob.blob_id == result.blob_path.name
    assert list(blob.sections) == ["image.blob", "blob.meta", "blob.digest", "rafs.blob.toc"]

    # chunks: each in the slot after the one before it, each with its digest
    assert len(blob.chunks) == len(blob.digests) == len(set(blob.digests)) == result.blob.chunk_count
    end = stored_end = 0
    for index, (chunk, digest) in enumerate(zip(blob.chunks, blob.digests, strict=True)):
        assert chunk.offset == end
        assert chunk.stored_offset == (chunk.offset if compressor == "none" else stored_end)
        assert DIGESTS[digester](plain_chunk(blob, index, codec)) == digest
        end = -(-(chunk.offset + chunk.size) // 4096) * 4096
        stored_end = chunk.stored_offset + chunk.stored_size
    data_size = blob.sections["image.blob"][1]
    assert data_size == (end if compressor == "none" else stored_end)
    assert end == result.blob.uncompressed_size

    # the CI header, and the bootstrap's word for it
    magic, features, ci_codec, count, ci_offset, ci_stored, ci_size, *contexts, magic2 = blob.ci_header
    assert magic == magic2 == 0xB10BB10B
    assert features == 0x7000_0021
    assert count == len(blob.chunks) and ci_size == 16 * count
    assert ci_codec == (codec if ci_stored < ci_size else 0)
    assert ci_offset == data_size + 512
    assert contexts == [0, 0, 0]
    entry = tmp_path.joinpath("b").read_bytes()[4096 : 4096 + 256]
    assert entry[:64].decode() == result.blob.blob_id
    assert struct.unpack_from("<6I2Q", entry, 64) == (
        0,
        chunk_size,
        count,
        codec,
        {"blake3": 0, "sha256": 1}[digester],
        0x7000_0021,
        len(blob.content),
        end,
    )
    assert struct.unpack_from("<IIQQQ", entry, 104) == (1024, ci_codec, ci_offset, ci_stored, ci_size)
    assert entry[136:168] == hashlib.sha256(blob.toc_region).digest()
    assert entry[168:] == bytes(88)

    # the TOC: each entry points at bytes with its digest
    assert list(blob.toc) == ["image.blob", "blob.meta", "blob.meta.header", "blob.digest"]
    for name, (flags, digest, offset, stored, plain) in blob.toc.items():
        content = blob.content[offset : offset + stored]
        if name == "image.blob":
            assert (flags, offset, stored, plain) == (1, 0, data_size, end)
        elif name == "blob.meta":
            assert (flags, offset, stored, plain) == (
                {0: 1, 1: 4, 3: 2}[ci_codec],
                ci_offset,
                ci_stored,
                ci_size,
            )
            content = struct.pack(f"<{2 * count}Q", *_words(blob.chunks))
        else:
            assert (flags, stored) == (1, plain)
        assert hashlib.sha256(content).digest() == digest
    assert blob.toc["blob.meta.header"][2:4] == (ci_offset + ci_stored, 4096)
    assert blob.toc["blob.digest"][2:4] == blob.sections["blob.digest"]


def _words(chunks: list[ChunkRecord]) -> list[int]:
    """The CI words again, from the decoded records: format section 3.2 the other way round."""
    words = []
    for chunk in chunks:
        for offset, size, shift in (
            (chunk.offset, chunk.size, 8),
            (chunk.stored_offset, chunk.stored_size, 40),
        ):
            words.append(offset | ((size - 1) >> 20) << shift | ((size - 1) & 0xFFFFF) << 44)
    return words


def test_largest_chunks_keep_their_size(tmp_path: Path) -> None:
    """A 16 MiB chunk needs all 24 bits of size minus one."""
    (tmp_path / "source").mkdir()
    data = os.urandom((16 << 20) + 1)
    (tmp_path / "source" / "file").write_bytes(data)
    options = BuildOptions(chunk_size=16 << 20)
    result = build_image(tmp_path / "source", tmp_path / "b", tmp_path / "blobs", options)
    assert result.blob_path is not None
    blob = parse_blob(result.blob_path)
    assert [(chunk.size, chunk.stored_size) for chunk in blob.chunks] == [(16 << 20, 16 << 20), (1, 1)]
    assert plain_chunk(blob, 0, 1) + plain_chunk(blob, 1, 1) == data


def test_incompressible_chunks_are_stored_plain(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "noise").write_bytes(os.urandom(4096))
    (tmp_path / "source" / "zeros").write_bytes(bytes(4096))
    for compressor in ("lz4_block", "zstd"):
        out = tmp_path / compressor
        result = build_image(tmp_path / "source", out / "b", out, BuildOptions(compressor))
        assert result.blob_path is not None
        noise, zeros = parse_blob(result.blob_path).chunks
        assert noise.stored_size == 4096
        assert zeros.stored_size < 100
