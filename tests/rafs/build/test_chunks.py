"""The chunk store: keys, records, and the limits of the format."""

from __future__ import annotations

import struct
from array import array

import pytest

from rafs.build import BuildError
from rafs.build import chunks as chunks_module
from rafs.build.blob_facts import BlobFacts
from rafs.build.chunks import BlobTable, ChunkStore, chunk_key


def key(number: int, size: int) -> bytes:
    return chunk_key(number.to_bytes(32, "big"), size)


def facts(blob_id: str) -> BlobFacts:
    return BlobFacts(blob_id, 1, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, bytes(32))


def table_of(store: ChunkStore, chunks: array[int]) -> BlobTable:
    store.finish_own(facts("own"))
    return store.used([chunks])


def test_same_digest_with_another_size_is_another_chunk() -> None:
    store = ChunkStore()
    assert store.add(key(1, 5), 5, 0, 5, 0) == 0
    assert store.find(key(1, 5)) == 0
    assert store.find(key(1, 6)) is None
    assert store.add(key(1, 6), 6, 5, 6, 0) == 1


def test_index_of_24_bits_is_spread_over_the_entry() -> None:
    """CI index 0x012345: low 16 bits first, then the device id, then the high 8 bits."""
    store = ChunkStore()
    for number in range(0x012346):
        store.add(key(number, 4096), 4096, number * 4096, 4096, 0)
    chunks = array("I", [0x012345])
    assert store.pack_indexes(chunks, table_of(store, chunks)) == bytes.fromhex("4523 01 01 45230100")


def test_table_is_sorted_by_digest_and_says_what_is_compressed() -> None:
    store = ChunkStore()
    store.add(key(9, 4096), 4096, 0, 100, 8192)
    store.add(key(3, 50), 50, 100, 50, 0)
    table = table_of(store, array("I", [0, 1]))
    rows = list(struct.iter_unpack("<32sIIIIQQQII", store.pack_table(table)))
    assert rows == [
        ((3).to_bytes(32, "big"), 0, 0, 50, 50, 100, 4096, 0, 1, 0),
        ((9).to_bytes(32, "big"), 0, 1, 100, 4096, 0, 0, 8192, 0, 0),
    ]


def test_limits_of_a_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ChunkStore()
    with pytest.raises(BuildError, match="does not fit one blob"):
        store.add(key(1, 4096), 4096, (1 << 40) - 4096, 4096, 0)
    store.uncompressed_size = (1 << 44) - 8192
    with pytest.raises(BuildError, match="does not fit one blob"):
        store.add(key(1, 8192), 8192, 0, 4096, 0)
    monkeypatch.setattr(chunks_module, "MAX_CHUNKS", 1)
    store = ChunkStore()
    store.add(key(1, 1), 1, 0, 1, 0)
    with pytest.raises(BuildError, match="use a larger --chunk-size"):
        store.add(key(2, 1), 1, 1, 1, 0)
