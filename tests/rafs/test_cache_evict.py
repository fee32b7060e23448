"""Chunks that leave the cache: READY bits and holes, on the disk in an order that no power loss upsets."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from rafs.cache_dir import CacheDir
from tests.rafs.conftest import MakeNative
from tests.rafs.test_cache import (
    CHUNKS,
    COUNT,
    DATA,
    FAKE,
    HEADER,
    MAP,
    MAP_SIZE,
    MARKER,
    RECORD,
    fill,
    opened,
    ready,
)


def test_bits_that_may_be_cleared_are_spelled_out(tmp_path: Path) -> None:
    """nydusd's "all ready" is for ever, so an owner, who may evict, turns it into bits."""
    (tmp_path / DATA).write_bytes(FAKE.image())
    (tmp_path / MAP).write_bytes(
        HEADER[:12] + struct.pack("<IQ", 0x4D4D4150, 7).ljust(4084, b"\0") + bytes(3)
    )
    directory = CacheDir(tmp_path, boot_id="boot-1")
    directory.join(owner=True)
    directory.open(RECORD).close()
    directory.leave()
    content = (tmp_path / MAP).read_bytes()
    assert content[:16] == HEADER[:16] and content[4096:] == b"\xff\xff\xf0"
    assert content[16:24] == struct.pack("<Q", 7)  # readers of before may be reading still


def test_a_map_has_all_its_blocks(tmp_path: Path) -> None:
    """To set a READY bit for which the disk has no block would be a SIGBUS."""
    (tmp_path / DATA).write_bytes(bytes(RECORD.uncompressed_size))
    with (tmp_path / MAP).open("wb") as file:
        file.write(HEADER)
        file.truncate(MAP_SIZE)
    with opened(tmp_path):
        assert (tmp_path / MAP).stat().st_blocks * 512 >= MAP_SIZE
    assert (tmp_path / MAP).read_bytes() == HEADER + bytes(MAP_SIZE - 4096)


def test_an_eviction_is_for_good(tmp_path: Path, native: MakeNative) -> None:
    with opened(tmp_path) as cache:
        fill(cache, *range(COUNT))
        assert cache.settle()
        synced: list[int] = []
        hole = (CHUNKS[2].uncompressed_offset, CHUNKS[2].slot_end - CHUNKS[2].uncompressed_offset)
        cache.evict(native(cache, FAKE), [(2, 1)], [hole])
        assert (tmp_path / MARKER).exists() and cache.is_unsettled
        assert ready(tmp_path) == set(range(COUNT)) - {2}
        assert cache.read_unmarked(CHUNKS[2]) is None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fdatasync", synced.append)
            assert cache.settle()
        assert {cache.data_fd, cache.chunk_map_fd} <= set(synced)  # bits that are cleared are on the disk too
        assert not (tmp_path / MARKER).exists()


def test_an_eviction_from_a_full_disk_needs_no_marker(
    tmp_path: Path, native: MakeNative, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the bits are on the disk before the holes."""
    with opened(tmp_path) as cache:
        fill(cache, *range(COUNT))
        assert cache.settle()
        steps: list[object] = []

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        blob = native(cache, FAKE)
        monkeypatch.setattr(cache._marker, "hold", full)
        monkeypatch.setattr(blob, "evict", lambda runs, holes: steps.append((runs, holes)))
        monkeypatch.setattr(os, "fdatasync", steps.append)
        cache.evict(blob, [(2, 1)], [(0, 4096)])
        assert steps == [([(2, 1)], []), cache.chunk_map_fd, ([], [(0, 4096)])]
