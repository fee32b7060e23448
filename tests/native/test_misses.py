"""Reads that wait for chunks: asked for once, answered when they are there, failed, or given up."""

from __future__ import annotations

import errno
import random
import threading

import pytest

from tests.native.conftest import BIG_CHUNK, BIG_SIZE
from tests.native.rig import BuiltImage, Fetcher, Rig, until
from virtqueue.fuse_client import FuseClient

UPCALL_CAPACITY = 4096
CHUNKS = (BIG_SIZE + BIG_CHUNK - 1) // BIG_CHUNK + 3  # of the blob: the three small files have one each


def open_big(client: FuseClient) -> int:
    return client.lookup(1, b"big").nodeid


def fails(client: FuseClient, unique: int) -> None:
    with pytest.raises(OSError) as caught:
        client.wait(unique)
    assert caught.value.errno == errno.EIO


def test_a_miss_is_asked_for_and_answered(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        unique = client.submit_read(open_big(client), 5 * BIG_CHUNK + 7, 100)
        assert rig.wait_upcalls() == [(rig.cache.blob.handle, 5, 1)]
        assert client.driver.maybe_used() is None
        rig.cache.fill(5, 1)
        assert client.wait(unique) == big[5 * BIG_CHUNK + 7 :][:100]
        assert rig.cache.blob.is_ready(5) and rig.cache.blob.ready_count() == 1
        assert client.read(open_big(client), 5 * BIG_CHUNK, 10) == big[5 * BIG_CHUNK :][:10]
        assert rig.store.take() == []


def test_a_large_miss_is_one_upcall_for_each_run(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        nodeid = open_big(client)
        rig.cache.fill(3, 2)
        handle = rig.cache.blob.handle
        unique = client.submit_read(nodeid, 1, 10 * BIG_CHUNK)
        assert rig.wait_upcalls(2) == [(handle, 0, 3), (handle, 5, 6)]
        for chunk in reversed([0, 1, 2, *range(5, 11)]):
            assert client.driver.maybe_used() is None
            rig.cache.fill(chunk, 1)
        assert client.wait(unique) == big[1 : 1 + 10 * BIG_CHUNK]
        assert rig.store.take() == []


def test_many_reads_of_one_chunk_ask_once(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False, num_request_queues=2) as rig:
        clients = [rig.client(1), rig.client(2, init=False)]
        nodeid = open_big(clients[0])
        uniques = [[client.submit_read(nodeid, 10 * i, 100) for i in range(20)] for client in clients]
        until(lambda: rig.device.statistics()["misses"] == 40)
        assert rig.wait_upcalls() == [(rig.cache.blob.handle, 0, 1)]
        assert rig.store.take() == []
        rig.cache.fill(0, 1)
        for client, waiting in zip(clients, uniques, strict=True):
            for index, unique in enumerate(waiting):
                assert client.wait(unique) == big[10 * index :][:100]


def test_hits_go_on_past_misses(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        nodeid = open_big(client)
        rig.cache.fill(0, 1)
        waiting = client.submit_read(nodeid, BIG_CHUNK, 4096)
        for offset in range(0, BIG_CHUNK, 4096):
            assert client.read(nodeid, offset, 4096) == big[offset : offset + 4096]
        assert len(client.readdir(1)) == 4
        rig.cache.fill(1, 1)
        assert client.wait(waiting) == big[BIG_CHUNK:][:4096]


def test_one_completion_ends_the_wait_of_many_large_reads(plain: BuiltImage, big: bytes) -> None:
    """More than the queue takes in one turn; hits in between have theirs."""
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        nodeid = open_big(client)
        offsets = [(i % 3) * 700_001 for i in range(20)]
        uniques = [client.submit_read(nodeid, offset, 1 << 20) for offset in offsets]
        until(lambda: rig.device.statistics()["misses"] == 20)
        rig.cache.fill()
        assert client.getattr(nodeid).size == BIG_SIZE
        for offset, unique in zip(offsets, uniques, strict=True):
            assert client.wait(unique) == big[offset : offset + (1 << 20)]


def test_a_failed_chunk_is_eio_for_all_who_wait_and_asked_for_again(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        nodeid = open_big(client)
        for misses in (5, 10, 15):
            uniques = [client.submit_read(nodeid, 0, 100) for _ in range(5)]
            until(lambda misses=misses: rig.device.statistics()["misses"] == misses)  # type: ignore[misc]
            assert rig.wait_upcalls() == [(rig.cache.blob.handle, 0, 1)]
            rig.cache.blob.fail(0, 1)
            for unique in uniques:
                fails(client, unique)
        unique = client.submit_read(nodeid, 0, 100)
        rig.wait_upcalls()
        rig.cache.fill(0, 1)
        assert client.wait(unique) == big[:100]


def test_one_chunk_of_many_fails(plain: BuiltImage) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        unique = client.submit_read(open_big(client), 0, 4 * BIG_CHUNK)
        rig.wait_upcalls()
        rig.cache.fill(0, 1)
        rig.cache.blob.fail(1, 1)
        rig.cache.fill(2, 2)
        # 1 is asked for once more when 0 is there and it is not PENDING, or is EIO at once
        upcalls: list[tuple[int, int, int]] = []

        def again() -> bool:
            upcalls.extend(rig.store.take())
            return bool(upcalls) or client.driver.used_idx != client.driver.next_used

        until(again)
        if upcalls:
            assert upcalls == [(rig.cache.blob.handle, 1, 1)]
            rig.cache.blob.fail(1, 1)
        fails(client, unique)


def test_past_the_deadline_is_eio_and_the_chunk_may_still_come(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False, miss_timeout_ms=20) as rig:
        client = rig.client()
        nodeid = open_big(client)
        fails(client, client.submit_read(nodeid, 0, 100))
        assert rig.device.statistics()["failed_misses"] == 1
        fails(client, client.submit_read(nodeid, 0, 100))  # PENDING still: waits again
        assert rig.wait_upcalls() == [(rig.cache.blob.handle, 0, 1)]
        rig.cache.fill(0, 1)
        assert client.read(nodeid, 0, 100) == big[:100]


def test_each_request_has_a_deadline_of_its_own(plain: BuiltImage) -> None:
    with Rig(plain, warm=False, miss_timeout_ms=30) as rig:
        client = rig.client()
        nodeid = open_big(client)
        uniques = [client.submit_read(nodeid, i * BIG_CHUNK, 100) for i in range(20)]
        for unique in uniques:
            fails(client, unique)
        counted = rig.device.statistics()
        assert counted["failed_misses"] == 20 and counted["requests"] == counted["replies"]


def test_prefetch_wins_and_loses_claims(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        nodeid = open_big(client)
        blob = rig.cache.blob
        rig.cache.fill(4, 1)
        unique = client.submit_read(nodeid, 0, 100)
        rig.wait_upcalls()
        assert blob.claim(0, 8) == [(1, 3), (5, 3)]
        assert blob.claim(0, 8) == []
        second = client.submit_read(nodeid, BIG_CHUNK, 2 * BIG_CHUNK)  # what the prefetch has: no upcall
        until(lambda: rig.device.statistics()["misses"] == 2)
        assert rig.store.take() == []
        rig.cache.fill(0, 8)
        assert client.wait(unique) == big[:100]
        assert client.wait(second) == big[BIG_CHUNK : 3 * BIG_CHUNK]


def test_ranges_outside_of_the_blob_are_left_alone(plain: BuiltImage) -> None:
    with Rig(plain, warm=False) as rig:
        blob = rig.cache.blob
        assert blob.chunk_count == CHUNKS
        for first, count in ((CHUNKS, 1), (0, CHUNKS + 1), (1, (1 << 32) - 1), ((1 << 32) - 1, 2)):
            blob.complete(first, count)
            blob.fail(first, count)
            blob.forget(first, count)
        assert blob.ready_count() == 0
        assert not blob.is_ready(CHUNKS) and not blob.is_ready((1 << 32) - 1)
        assert blob.claim(CHUNKS, 5) == []
        blob.complete(CHUNKS - 1, 1)
        assert blob.ready_count() == 1
        blob.forget(0, CHUNKS)
        assert blob.ready_count() == 0


def test_a_full_upcall_ring_delays_and_loses_nothing(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False, num_request_queues=2) as rig:
        handle = rig.cache.blob.handle
        clients = [rig.client(1), rig.client(2, init=False)]
        nodeid = open_big(clients[0])
        fill_ring(rig)
        chunks = [5, 8, 11, 14]
        late = [clients[i % 2].submit_read(nodeid, chunk * BIG_CHUNK, 100) for i, chunk in enumerate(chunks)]
        until(lambda: rig.device.statistics()["misses"] == UPCALL_CAPACITY + 4)
        assert clients[0].getattr(nodeid).size == BIG_SIZE  # others are served
        assert [rig.cache.blob.claim(chunk, 1) for chunk in (5, 8)] == [[(5, 1)], [(8, 1)]]  # ABSENT still
        rig.cache.blob.fail(5, 1)
        rig.cache.fill(8, 1)
        taken = [upcall for _ in range(16) for upcall in rig.store.take()]
        assert taken == [(handle, 0, 1)] * UPCALL_CAPACITY
        assert sorted(rig.wait_upcalls(3)) == [(handle, 5, 1), (handle, 11, 1), (handle, 14, 1)]
        rig.cache.fill()
        for index, (chunk, unique) in enumerate(zip(chunks, late, strict=True)):
            assert clients[index % 2].wait(unique) == big[chunk * BIG_CHUNK :][:100]
        assert rig.store.take() == []


def test_a_full_upcall_ring_and_the_deadline(plain: BuiltImage) -> None:
    with Rig(plain, warm=False, miss_timeout_ms=100) as rig:
        client = rig.client()
        nodeid = open_big(client)
        fill_ring(rig)
        fails(client, client.submit_read(nodeid, BIG_CHUNK, 1))
        counted = rig.device.statistics()
        assert counted["requests"] == counted["replies"]


def fill_ring(rig: Rig) -> None:
    """Push as many upcalls as there is room for, by failing chunk 0 each time that it is asked for."""
    client = rig.client(0, init=False)
    nodeid = open_big(client)
    for misses in range(1, UPCALL_CAPACITY + 1):
        unique = client.submit_read(nodeid, 0, 1)
        until(lambda misses=misses: rig.device.statistics()["misses"] == misses)  # type: ignore[misc]
        rig.cache.blob.fail(0, 1)
        fails(client, unique)


def test_eight_readers_on_a_cold_cache(plain: BuiltImage, big: bytes) -> None:
    """Several queues in parallel: the right bytes, and no chunk asked for twice."""
    with Rig(plain, warm=False, num_request_queues=8) as rig:
        readers = [Reader(rig, 1 + index, big) for index in range(8)]
        with Fetcher(rig) as fetcher:
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
        assert [reader.failures for reader in readers] == [[]] * 8
        chunks = fetcher.chunks()
        assert chunks == sorted(set(chunks)) and len(chunks) == CHUNKS - 3
        counted = rig.device.statistics()
        assert counted["requests"] == counted["replies"] and counted["failed_misses"] == 0


class Reader(threading.Thread):
    """Reads /big on a queue of its own, many requests in flight, in an order of its own."""

    def __init__(self, rig: Rig, index: int, expected: bytes) -> None:
        super().__init__()
        self.client = rig.client(index, init=index == 1)
        self.nodeid = open_big(self.client)
        self.expected = expected
        self.offsets = list(range(0, len(expected), 30_000)) * 2
        random.Random(index).shuffle(self.offsets)
        self.failures: list[object] = []

    def run(self) -> None:
        waiting: list[tuple[int, int]] = []
        for offset in self.offsets:
            waiting.append((offset, self.client.submit_read(self.nodeid, offset, 30_000)))
            if len(waiting) > 20:
                self.check(*waiting.pop(0))
        for offset, unique in waiting:
            self.check(offset, unique)

    def check(self, offset: int, unique: int) -> None:
        try:
            if self.client.wait(unique) != self.expected[offset : offset + 30_000]:
                self.failures.append(f"wrong bytes at {offset}")
        except (OSError, TimeoutError) as error:
            self.failures.append(error)
