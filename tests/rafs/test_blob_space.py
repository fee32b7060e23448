"""The room of one blob: what is punched out, and what of a block shared with others stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from rafs.blob_meta import BlobMeta
from rafs.blob_record import BlobRecord
from rafs.blob_space import BlobSpace, MemoryFiles
from rafs.cache_dir import CacheDir
from rafs.fill_guard import FillGuard
from tests.fakes.blobs import FakeBlob, make_blob, make_chunks
from tests.rafs.conftest import MakeNative

#: the chunks begin at 0, 8 and so on KiB; the fourth has a single byte
SIZES = [5000, 4096, 9000, 1, 4096, 16_384, 100]
FAKE = make_blob(make_chunks(SIZES))
COUNT = len(SIZES)


class Room(BlobSpace):
    """With every chunk on the disk."""

    def holes(self) -> list[tuple[int, int]]:
        """The parts of the data file that take no space, by SEEK_HOLE: (from, to)."""
        found, at, end = [], 0, FAKE.uncompressed_size
        fd = self.cache.data_fd
        while at < end:
            hole = os.lseek(fd, at, os.SEEK_HOLE)
            if hole >= end:
                break
            try:
                at = os.lseek(fd, hole, os.SEEK_DATA)
            except OSError:
                at = end
            found.append((hole, at))
        return found

    def check_ready(self) -> set[int]:
        """The chunks that are READY on the disk; each has its bytes."""
        ready = {index for index in range(COUNT) if self.native.is_on_disk(index)}
        for index in ready:
            data = os.pread(self.cache.data_fd, SIZES[index], FAKE.offsets[index])
            assert data == FAKE.chunks[index], index
        return ready


@pytest.fixture
def room(tmp_path: Path, native: MakeNative) -> Iterator[Room]:
    yield from open_room(tmp_path, native, FAKE)


def open_room(path: Path, native: MakeNative, fake: FakeBlob) -> Iterator[Room]:
    record = BlobRecord.parse(BLOB_RECORD.parse(fake.entry))
    cache = CacheDir(path, boot_id="boot-1").open(record)
    meta = BlobMeta(record, lambda offset, length: fake.meta_file[offset : offset + length])
    memory = MemoryFiles("test", uncompressed_size=record.uncompressed_size, chunk_count=record.chunk_count)
    blob = native(cache, fake)
    blob.add_memory(memory.data_fd, memory.map_fd)
    blob.add_visited(memory.visited_fd)
    space = Room(cache, blob, meta, FillGuard(), memory)
    for index in range(record.chunk_count):
        cache.write(meta.chunk(index), fake.chunks[index])
    blob.complete(0, record.chunk_count)
    yield space
    space.close()
    cache.close()


def test_chunks_leave_their_blocks(room: Room) -> None:
    before = room.disk_bytes
    assert room.evict_from_disk([1, 2, 5]) == {1, 2, 5}
    assert room.check_ready() == {0, 3, 4, 6}
    ends = [*FAKE.offsets[1:], FAKE.uncompressed_size]
    assert room.holes() == [(FAKE.offsets[1], ends[2]), (FAKE.offsets[5], ends[5])]
    assert before - room.disk_bytes == ends[2] - FAKE.offsets[1] + ends[5] - FAKE.offsets[5]
    assert room.evict_from_disk([1, 2, 3]) == {3}
    assert room.evict_from_disk(range(COUNT)) == {0, 4, 6}
    assert room.disk_bytes == 0 and room.check_ready() == set()


def test_what_is_being_filled_stays(room: Room) -> None:
    room.guard.begin(2)
    assert room.evict_from_disk([1, 2, 3]) == {1, 3}
    assert room.check_ready() == {0, 2, 4, 5, 6}
    room.guard.end([2])
    assert room.evict_from_disk([2]) == {2}


@pytest.mark.parametrize("block", [4096, 8192, 16_384, 65_536])
def test_a_block_stays_while_a_neighbour_lives(
    room: Room, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order in which they go: who lives keeps its bytes, and in the end all blocks are free."""
    monkeypatch.setattr(room, "_block_size", block)
    left = set(range(COUNT))
    for index in (3, 5, 0, 2, 6, 4, 1):
        assert room.evict_from_disk([index]) == {index}
        left.discard(index)
        assert room.check_ready() == left
        living = {at // block for i in left for at in range(FAKE.offsets[i], FAKE.offsets[i] + SIZES[i])}
        holes = {
            start // block
            for start, end in room.holes()
            if start % block == 0
            for start in range(start, end, block)
        }
        assert not living & holes
    assert room.disk_bytes == 0
    assert room.guard.take(range(COUNT)) == set(range(COUNT))  # all were given back


def test_a_block_stays_while_a_neighbour_is_being_filled(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_block_size", 1 << 20)
    assert room.evict_from_disk(range(1, COUNT)) == set(range(1, COUNT))
    assert room.holes() == []
    room.guard.begin(3)
    assert room.evict_from_disk([0]) == {0}
    assert room.holes() == []
    room.guard.end([3])
    room.cache.write(room.meta.chunk(0), FAKE.chunks[0])
    room.native.complete(0, 1)
    assert room.evict_from_disk([0]) == {0}
    assert room.disk_bytes == 0


def test_memory_is_given_back(room: Room) -> None:
    room.evict_from_disk(range(COUNT))
    for index in (2, 3):
        room.write_to_memory(room.meta.chunk(index), FAKE.chunks[index])
    room.native.complete(2, 2, in_memory=True)
    memory = room.memory.data_fd
    assert os.fstat(memory).st_blocks * 512 == 12_288 + 4096
    room.guard.begin(3)
    assert room.evict_from_memory([2, 3]) == {2}
    assert os.fstat(memory).st_blocks * 512 == 4096
    assert os.pread(memory, 1, FAKE.offsets[3]) == FAKE.chunks[3]
    room.guard.end([3])
    assert room.native.is_ready(3) and not room.native.is_ready(2)
    assert room.evict_from_memory([3]) == {3}
    assert os.fstat(memory).st_blocks == 0


def test_what_is_in_memory_has_a_size_for_ever(room: Room) -> None:
    for fd in (room.memory.data_fd, room.memory.map_fd, room.memory.visited_fd):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
