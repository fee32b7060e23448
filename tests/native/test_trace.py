"""Recording: each chunk once, by whoever reads it first, while guests read and while it is switched."""

from __future__ import annotations

import errno
import threading

import pytest

from native.dataplane import TRACE_MISSED, TRACE_RECORD, TraceLog
from rafs.trace.format import Access, parse_accesses
from tests.native.conftest import BIG_CHUNK, BIG_SIZE
from tests.native.rig import BuiltImage, Rig

CHUNKS = -(-BIG_SIZE // BIG_CHUNK)


def accesses(log: TraceLog) -> tuple[Access, ...]:
    return parse_accesses(log.read())


def test_first_accesses_are_recorded_once_and_in_order(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        client.pid, client.uid = 4711, 815
        log = TraceLog(rig.image)
        nodeid = client.lookup(1, b"big").nodeid
        rig.device.set_trace("/", log)
        for offset, size in ((5 * BIG_CHUNK + 9, 100), (0, 3 * BIG_CHUNK), (5 * BIG_CHUNK, BIG_CHUNK)):
            assert client.read(nodeid, offset, size) == big[offset : offset + size]
        rig.device.set_trace("/", None)
        assert client.read(nodeid, 9 * BIG_CHUNK, 10) == big[9 * BIG_CHUNK : 9 * BIG_CHUNK + 10]
        found = accesses(log)
        assert [(access.file_offset, access.length) for access in found] == [
            (5 * BIG_CHUNK + 9, 100),
            (0, BIG_CHUNK),
            (BIG_CHUNK, BIG_CHUNK),
            (2 * BIG_CHUNK, BIG_CHUNK),
        ]
        times = [access.time_ns for access in found]
        assert times == sorted(times) and times[0] > 0 and times[-1] < log.duration_ns
        nid = rig.image.lookup(rig.image.root_nid, b"big")
        assert {access[1] for access in found} == {nid}
        extents = list(rig.image.extents(nid, 0, BIG_SIZE))
        assert [access.chunk_index for access in found] == [extents[i].chunk_index for i in (5, 0, 1, 2)]
        assert {(a.pid, a.uid, a.runs, a.flags, a.blob_index) for a in found} == {(4711, 815, 1, 0, 0)}
        assert log.read(2) == log.read()[2 * TRACE_RECORD.size :] and log.dropped == 0
        log.close()


def test_a_miss_is_told_and_counted_once(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        log = TraceLog(rig.image)
        rig.device.set_trace("/", log)
        unique = client.submit_read(nodeid, 0, 100)
        rig.wait_upcalls()
        rig.cache.fill(0, 2)
        assert client.wait(unique) == big[:100]
        assert client.read(nodeid, BIG_CHUNK, 100) == big[BIG_CHUNK : BIG_CHUNK + 100]
        assert [access.flags for access in accesses(log)] == [TRACE_MISSED, 0]
        rig.device.set_trace("/", None)
        log.close()


def test_what_has_no_room_is_counted(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        log = TraceLog(rig.image, capacity=5)
        rig.device.set_trace("/", log)
        for chunk in range(CHUNKS):
            client.read(nodeid, chunk * BIG_CHUNK, 10)
        assert len(accesses(log)) == 5 and log.dropped == CHUNKS - 5
        rig.device.set_trace("/", None)
        log.close()


def test_an_umount_ends_it(plain: BuiltImage) -> None:
    with Rig(plain, path="/a") as rig:
        log = TraceLog(rig.image)
        rig.device.set_trace("/a", log)
        rig.device.umount("/a")
        log.close()
        with pytest.raises(FileNotFoundError):
            rig.device.set_trace("/a", None)


def test_only_images_are_recorded(plain: BuiltImage) -> None:
    with Rig(plain, path="/a") as rig:
        log = TraceLog(rig.image)
        rig.device.mount_directory("/b", str(plain.source))
        with pytest.raises(OSError) as caught:
            rig.device.set_trace("/b", log)
        assert caught.value.errno == errno.EINVAL
        log.close()


def test_queues_record_while_it_is_switched(plain: BuiltImage, big: bytes) -> None:
    """Every chunk that is read while a log stays in place is in it, once; a log is closed under reads."""
    with Rig(plain, num_request_queues=2) as rig:
        clients = [rig.client(1), rig.client(2, init=False)]
        nodeid = clients[0].lookup(1, b"big").nodeid
        stop = threading.Event()
        errors: list[BaseException] = []

        def read_on(number: int) -> None:
            try:
                while not stop.is_set():
                    for chunk in range(number, CHUNKS, 1):
                        start = chunk * BIG_CHUNK
                        assert clients[number].read(nodeid, start, 512) == big[start : start + 512]
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=read_on, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(200):
                log = TraceLog(rig.image)
                rig.device.set_trace("/", log)
                rig.device.set_trace("/", None)
                log.close()
            log = TraceLog(rig.image)
            rig.device.set_trace("/", log)
            while len(accesses(log)) < CHUNKS and not errors:
                pass
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not errors
        rig.device.set_trace("/", None)
        found = accesses(log)
        assert len({access.chunk_index for access in found}) == len(found) == CHUNKS
        log.close()
