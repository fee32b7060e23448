"""Chunks that are evicted under a guest that reads: it gets the right bytes, never zeros, never EIO."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from tests.native.conftest import BIG_CHUNK, BIG_SIZE
from tests.native.rig import BuiltImage, Cache, Fetcher, Rig, until

SPARE = 3  # chunks of the blob that are of other files


def evict(cache: Cache, first: int, count: int = 1) -> None:
    """As a cache governor does, with the whole slots of the chunks as one hole."""
    chunks = list(cache.meta.chunks(first, count))
    start = chunks[0].uncompressed_offset
    cache.blob.evict([(first, count)], [(start, chunks[-1].slot_end - start)])


def test_an_evicted_chunk_is_asked_for_again(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        first = rig.cache.meta.chunk(0)
        assert client.read(nodeid, 0, 4096) == big[:4096]
        before = rig.cache.blob.generation
        evict(rig.cache, 0, 2)
        assert rig.cache.blob.generation == before + 1
        assert os.pread(rig.cache.data_fd, 10, first.uncompressed_offset) == bytes(10)
        assert client.read(nodeid, 2 * BIG_CHUNK, 4096) == big[2 * BIG_CHUNK :][:4096]
        unique = client.submit_read(nodeid, 0, 3 * BIG_CHUNK)
        assert rig.wait_upcalls() == [(rig.cache.blob.handle, 0, 2)]
        rig.cache.fill(0, 2)
        assert client.wait(unique) == big[: 3 * BIG_CHUNK]


def test_a_chunk_that_is_evicted_before_its_reader_looked_is_asked_for_again(
    plain: BuiltImage, big: bytes
) -> None:
    """The reader finds it ABSENT, and not because the fetch failed: that would be EIO."""
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        asked_again: list[tuple[int, int, int]] = []

        def is_over() -> bool:
            asked_again.extend(rig.store.take())
            return bool(asked_again) or client.driver.used_idx != client.driver.next_used

        def try_it() -> bool:
            unique = client.submit_read(nodeid, 0, 4096)
            rig.wait_upcalls()
            rig.cache.write(0, 1)
            rig.cache.blob.complete(0, 1)
            evict(rig.cache, 0)  # its thread is only being woken; unless it was very quick
            until(is_over)
            if asked_again:
                rig.cache.fill(0, 1)
            assert client.wait(unique) == big[:4096]
            evict(rig.cache, 0)
            return bool(asked_again)

        until(try_it)


def test_what_the_disk_has_no_room_for_is_read_from_memory(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        blob, record = rig.cache.blob, rig.cache.record
        data_fd, map_fd = os.memfd_create("data"), os.memfd_create("map")
        os.ftruncate(data_fd, record.uncompressed_size)
        os.ftruncate(map_fd, 4096 + (record.chunk_count + 7) // 8)
        blob.add_memory(data_fd, map_fd)
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        rig.cache.fill(0, 2)
        unique = client.submit_read(nodeid, 0, 4 * BIG_CHUNK)
        assert rig.wait_upcalls() == [(blob.handle, 2, 2)]
        offset = rig.cache.meta.chunk(2).uncompressed_offset
        os.pwrite(data_fd, big[2 * BIG_CHUNK : 4 * BIG_CHUNK], offset)
        blob.complete(2, 2, in_memory=True)
        assert client.wait(unique) == big[: 4 * BIG_CHUNK]
        assert blob.is_ready(2) and not blob.is_on_disk(2) and blob.is_on_disk(1)
        blob.evict([(2, 1)], [(offset, BIG_CHUNK)], in_memory=True)
        assert os.fstat(data_fd).st_blocks * 512 == BIG_CHUNK
        unique = client.submit_read(nodeid, 2 * BIG_CHUNK, 2 * BIG_CHUNK)
        assert rig.wait_upcalls() == [(blob.handle, 2, 1)]
        rig.cache.fill(2, 1)
        assert client.wait(unique) == big[2 * BIG_CHUNK : 4 * BIG_CHUNK]
        os.close(data_fd)
        os.close(map_fd)


def test_there_is_no_memory_to_evict_from(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        with pytest.raises(OSError, match="No such device"):
            rig.cache.blob.evict([(0, 1)], [], in_memory=True)
        with pytest.raises(OSError, match="Invalid argument"):
            rig.cache.blob.evict([(0, rig.cache.record.chunk_count + 1)], [])
        assert rig.cache.blob.ready_count() == rig.cache.record.chunk_count


def test_reads_mark_what_they_visit(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        blob = rig.cache.blob
        fd = os.memfd_create("visited")
        os.ftruncate(fd, 4096)
        blob.add_visited(fd)
        client = rig.client()
        client.read(client.lookup(1, b"big").nodeid, BIG_CHUNK + 1, BIG_CHUNK)
        assert [chunk for chunk in range(10) if blob.was_visited(chunk)] == [1, 2]
        assert not any(blob.was_visited(chunk) for chunk in range(10))
        os.close(fd)


class Evictor(threading.Thread):
    """Evicts a few chunks now and then; never while the fetcher fills. Use as a context manager."""

    def __init__(self, rig: Rig, lock: threading.Lock, chunks: int) -> None:
        super().__init__()
        self._rig, self._lock, self._chunks = rig, lock, chunks
        self._ending = threading.Event()
        self.evicted = 0

    def run(self) -> None:
        rng = random.Random(3)
        while not self._ending.is_set():
            first = rng.randrange(self._chunks - 4)
            with self._lock:
                evict(self._rig.cache, first, rng.randint(1, 4))
            self.evicted += 1
            os.sched_yield()

    def __enter__(self) -> Evictor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join()


@pytest.mark.parametrize("on_disk", [False, True])
def test_under_load(
    plain: BuiltImage, big: bytes, tmp_path: Path, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two queues with several reads in flight each, while chunks come and go at full speed."""
    lock = threading.Lock()
    with Rig(plain, num_request_queues=2, data_path=tmp_path / "data" if on_disk else None) as rig:
        fill = rig.cache.fill

        def fill_alone(first: int = 0, count: int | None = None) -> None:
            with lock:
                fill(first, count)

        monkeypatch.setattr(rig.cache, "fill", fill_alone)
        clients = [rig.client(1), rig.client(2, init=False)]
        nodeid = clients[0].lookup(1, b"big").nodeid
        wrong: list[int] = []

        def read(number: int) -> None:
            rng, client = random.Random(number), clients[number]
            for _ in range(300):
                wanted = []
                for _ in range(4):
                    offset, size = rng.randrange(BIG_SIZE), rng.choice([4096, 70_000, 400_000])
                    wanted.append((offset, size, client.submit_read(nodeid, offset, size)))
                for offset, size, unique in wanted:
                    if client.wait(unique) != big[offset : offset + size]:
                        wrong.append(offset)

        with Fetcher(rig), Evictor(rig, lock, rig.cache.record.chunk_count - SPARE) as evictor:
            readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            until(lambda: evictor.evicted > 0)
        statistics = rig.device.statistics()
        assert wrong == [] and statistics["failed_misses"] == 0
        assert statistics["misses"] > 0 and rig.cache.blob.generation >= evictor.evicted
