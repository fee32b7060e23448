"""A queue's life: start, notifications, enable, pause, stop with requests under way, break, reset."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.native.conftest import BIG_CHUNK
from tests.native.rig import BOTH_RING_FEATURES, BuiltImage, Rig, is_readable, until
from virtqueue import fuse_abi as abi
from virtqueue.driver import Buffer, wait_eventfd
from virtqueue.fuse_abi import Opcode
from virtqueue.fuse_client import FuseClient
from virtqueue.malformed import BROKEN_RINGS


def getattr_root(client: FuseClient, *, kick: bool = True) -> int:
    return client.submit(Opcode.GETATTR, 1, bytes(16), reply_size=104, kick=kick)


def is_eio(client: FuseClient, unique: int) -> bool:
    try:
        client.wait(unique)
    except OSError as error:
        return error.errno == errno.EIO
    return False


@pytest.mark.parametrize("features", [0, BOTH_RING_FEATURES])
def test_a_kick_before_enable_is_not_lost(plain: BuiltImage, features: int) -> None:
    with Rig(plain) as rig:
        first = rig.client(1, features=features)
        driver = rig.driver(features=features)
        client = FuseClient(driver, timeout=10)
        rig.attach(0, driver, enable=False)
        unique = getattr_root(client)
        assert first.getattr(1).nlink == 3  # time has passed
        assert driver.maybe_used() is None
        rig.device.set_vring_enable(0, True)
        client.wait(unique)
        rig.device.set_vring_enable(0, False)
        unique = getattr_root(client)
        assert first.getattr(1).nlink == 3
        assert driver.maybe_used() is None
        rig.device.set_vring_enable(0, True)
        client.wait(unique)


def test_a_kick_before_the_start_is_not_lost(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        rig.client(0)
        driver = rig.driver()
        client = FuseClient(driver, timeout=10)
        unique = getattr_root(client)
        rig.attach(1, driver)
        client.wait(unique)


@pytest.mark.parametrize("poll_us", [0, 50])
def test_no_kick_fd_means_polling(plain: BuiltImage, big: bytes, poll_us: int) -> None:
    with Rig(plain, poll_us=poll_us) as rig:
        driver = rig.driver()
        rig.attach(1, driver, kick=False)
        client = FuseClient(driver, timeout=10)
        client.init()
        nodeid = client.lookup(1, b"big").nodeid
        for offset in range(0, 100_000, 10_000):
            unique = client.submit_read(nodeid, offset, 100, kick=False)
            assert client.wait(unique) == big[offset : offset + 100]


@pytest.mark.parametrize("poll_us", [0, 50, 2000])
@pytest.mark.parametrize("features", [0, BOTH_RING_FEATURES])
def test_no_notification_is_lost_in_either_direction(plain: BuiltImage, features: int, poll_us: int) -> None:
    """One request at a time, so that both sides fall asleep as often as they can."""
    with Rig(plain, poll_us=poll_us) as rig:
        client = rig.client(features=features)
        for _ in range(1500):
            assert client.wait(getattr_root(client))


def test_few_interrupts_where_the_driver_wants_few(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        rig.device.set_vring_enable(1, False)
        before = rig.device.statistics()["interrupts"]
        client.driver.set_used_event((client.driver.next_used + 29) & 0xFFFF)
        uniques = [getattr_root(client) for _ in range(30)]
        rig.device.set_vring_enable(1, True)
        assert wait_eventfd(client.driver.call_fd, 10)
        until(lambda: client.driver.used_idx == client.driver.next_avail)
        for unique in uniques:
            client.wait(unique)
        assert rig.device.statistics()["interrupts"] - before <= 2


def test_a_call_fd_that_nobody_reads_holds_nothing(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        full = os.eventfd(0, os.EFD_NONBLOCK)
        os.eventfd_write(full, (1 << 64) - 2)
        rig.device.set_vring_call(1, full)
        unique = getattr_root(client)
        until(lambda: client.driver.used_idx == client.driver.next_avail)
        client.wait(unique)
        assert rig.device.stop_vring(1, 0) == 2


def test_a_blocking_pipe_as_call_and_err_fd(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        while True:
            try:
                os.write(writer, bytes(65536))
            except BlockingIOError:
                break
        os.set_blocking(writer, True)
        rig.device.set_vring_call(1, os.dup(writer))
        rig.device.set_vring_err(1, writer)
        getattr_root(client)
        until(lambda: client.driver.used_idx == client.driver.next_avail)
        BROKEN_RINGS["head_maximal"](client.driver)
        client.driver.kick(force=True)
        until(lambda: rig.device.statistics()["broken_rings"] == 1)
        assert rig.device.stop_vring(1, 0) == 2
        os.close(reader)


def test_no_call_fd_and_no_err_fd(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        rig.device.set_vring_call(1, None)
        rig.device.set_vring_err(1, None)
        unique = getattr_root(client)
        until(lambda: client.driver.used_idx == client.driver.next_avail)
        client.wait(unique)
        BROKEN_RINGS["head_maximal"](client.driver)
        client.driver.kick(force=True)
        until(lambda: rig.device.statistics()["broken_rings"] == 1)


def test_a_new_call_fd_is_signalled_at_once(plain: BuiltImage) -> None:
    """What was completed between two fds must not be slept over."""
    with Rig(plain) as rig:
        client = rig.client()
        rig.device.set_vring_call(1, None)
        unique = getattr_root(client)
        until(lambda: client.driver.used_idx == client.driver.next_avail)
        rig.device.set_vring_call(1, os.dup(client.driver.call_fd))
        assert wait_eventfd(client.driver.call_fd, 10)
        client.wait(unique)


@pytest.mark.parametrize("features", [0, BOTH_RING_FEATURES])
@pytest.mark.parametrize("name", BROKEN_RINGS)
def test_a_broken_ring_says_so_and_the_others_go_on(plain: BuiltImage, name: str, features: int) -> None:
    with Rig(plain) as rig:
        other = rig.client(0, features=features)
        client = rig.client(1, features=features, init=False)
        assert client.getattr(1).nlink == 3
        driver, used_idx = client.driver, client.driver.used_idx
        BROKEN_RINGS[name](driver)
        driver.kick(force=True)
        driver.wait_error()
        assert driver.used_idx == used_idx
        assert rig.device.statistics()["broken_rings"] == 1
        assert other.getattr(1).nlink == 3
        assert rig.device.stop_vring(1, 0) == 1  # where the bad chain stands
        driver.rewind()
        rig.attach(1, driver)
        assert FuseClient(driver, timeout=10).getattr(1).nlink == 3
        assert not is_readable(driver.err_fd, 0)


def test_parked_requests_of_a_broken_ring_are_answered(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        unique = client.submit_read(client.lookup(1, b"big").nodeid, 0, 100)
        rig.wait_upcalls()
        client.driver.offer(0xFFFF)
        client.driver.publish()
        client.driver.kick(force=True)
        client.driver.wait_error()
        rig.cache.fill()
        assert client.wait(unique) == big[:100]


def test_stop_waits_for_what_is_parked(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig, ThreadPoolExecutor(1) as pool:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        uniques = [client.submit_read(nodeid, i * BIG_CHUNK, 100) for i in range(10)]
        until(lambda: rig.device.statistics()["misses"] == 10)
        stopped = pool.submit(rig.device.stop_vring, 1, 60_000)
        rig.cache.fill(0, 5)
        late = getattr_root(client)  # more than one sees it popped or not; both are right
        rig.cache.fill(5, 5)
        base = stopped.result(20)
        for index, unique in enumerate(uniques):
            assert client.wait(unique) == big[index * BIG_CHUNK :][:100]
        if base == 12:  # not popped: still there for whoever starts the ring again
            rig.device.set_vring_kick(1, os.dup(client.driver.kick_fd))
        client.wait(late)
        assert base in (12, 13)


def test_stop_pops_nothing_more_while_it_drains(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False, num_request_queues=2) as rig, ThreadPoolExecutor(1) as pool:
        client, other = rig.client(1), rig.client(2, init=False)
        unique = client.submit_read(client.lookup(1, b"big").nodeid, 0, 100)
        rig.wait_upcalls()
        stopped = pool.submit(rig.device.stop_vring, 1, 60_000)
        # a stop that has begun shows: requests are taken no more
        uniques: list[int] = []

        def stands_still() -> bool:
            before = rig.device.statistics()["requests"]
            uniques.append(getattr_root(client))
            for _ in range(20):
                assert other.getattr(1).nlink == 3
            return rig.device.statistics()["requests"] == before + 20

        until(stands_still)
        assert not stopped.done()
        rig.cache.fill(0, 1)
        base = stopped.result(20)
        assert client.wait(unique) == big[:100]
        rig.device.set_vring_base(1, base)
        rig.device.set_vring_kick(1, os.dup(client.driver.kick_fd))
        for pending in uniques:
            client.wait(pending)


@pytest.mark.parametrize("drain_ms", [0, 1, 30])
def test_stop_fails_what_is_parked_past_its_deadline(plain: BuiltImage, drain_ms: int) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        uniques = [client.submit_read(nodeid, i * BIG_CHUNK, 100) for i in range(10)]
        until(lambda: rig.device.statistics()["misses"] == 10)
        assert rig.device.stop_vring(1, drain_ms) == 12
        assert client.driver.used_idx == 12
        assert all(is_eio(client, unique) for unique in uniques)
        assert rig.device.stop_vring(1, drain_ms) == 12  # once more does nothing


def test_stop_waits_for_reads_in_the_pool(plain: BuiltImage, big: bytes, tmp_path: Path) -> None:
    with Rig(plain, data_path=tmp_path / "data") as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        os.fsync(rig.cache.data_fd)
        for _ in range(20):
            os.posix_fadvise(rig.cache.data_fd, 0, 0, os.POSIX_FADV_DONTNEED)
            offsets = range(0, 3 << 20, 1 << 18)
            uniques = [client.submit_read(nodeid, offset, 1 << 18) for offset in offsets]
            base = rig.device.stop_vring(1, 0)
            rig.device.set_vring_base(1, base)
            rig.device.set_vring_kick(1, os.dup(client.driver.kick_fd))
            for offset, unique in zip(offsets, uniques, strict=True):
                assert client.wait(unique) == big[offset : offset + (1 << 18)]


def test_the_memory_of_parked_requests_is_bounded(plain: BuiltImage) -> None:
    """A driver that asks for much at once in many pieces: popping stops, and goes on later."""
    with Rig(plain, warm=False, regions=((0x10_0000, 64 << 20),)) as rig:
        client, other = rig.client(size=32768, indirect=True), rig.client(0, init=False)
        nodeid = client.lookup(1, b"big").nodeid
        driver, memory = client.driver, rig.memory
        request, reply, pieces = memory.allocate(4096), memory.allocate(65536), 1000
        header = abi.IN_HEADER.pack(80, Opcode.READ, 2, nodeid, 0, 0, 0, 0, 0)
        memory.write(request, header + abi.READ_IN.pack(0, 0, 1000, 0, 0, 0))
        writable = [Buffer(reply, 16)] + [Buffer(reply + 32 + 2 * i, 1) for i in range(pieces)]
        for _ in range(600):  # 40 KiB each when parked: 24 MiB
            driver.add([Buffer(request, 80)], writable, indirect=True)
        driver.publish()
        driver.kick()
        until(lambda: rig.device.statistics()["misses"] >= (16 << 20) // 41_000)
        for _ in range(200):  # it has the time to take more
            assert other.getattr(1).nlink == 3
        assert rig.device.statistics()["misses"] <= (16 << 20) // 40_000 + 1
        rig.cache.fill()
        for _ in range(600):
            assert driver.wait_used().written == 1016


def test_pause_under_load(plain: BuiltImage, big: bytes) -> None:
    """Every change that pauses the queues, over and over, while a driver reads."""
    with Rig(plain, num_request_queues=2) as rig:
        clients = [rig.client(1), rig.client(2, init=False)]
        nodeid = clients[0].lookup(1, b"big").nodeid
        failures: list[object] = []
        stop = threading.Event()

        def read(client: FuseClient) -> None:
            offset = 0
            while not stop.is_set():
                offset = (offset + 77_777) % (3 << 20)
                try:
                    if client.read(nodeid, offset, 1000) != big[offset : offset + 1000]:
                        failures.append(offset)
                except (OSError, TimeoutError) as error:
                    failures.append(error)
                    return

        threads = [threading.Thread(target=read, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for _ in range(100):
            rig.share()
            rig.addresses(1, clients[0].driver)
            rig.device.set_features(indirect=True, event_idx=True)
            rig.device.set_vring_enable(2, False)
            rig.device.set_vring_call(2, os.dup(clients[1].driver.call_fd))
            rig.device.set_vring_enable(2, True)
            rig.device.set_vring_err(1, None)
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []


def counted() -> tuple[int, int, int]:
    """Open descriptors, threads, and mappings of shared memory, of this process."""
    maps = Path("/proc/self/maps").read_text().count("memfd:")
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir())), maps


def wait_freed(before: tuple[int, int, int]) -> None:
    """No more of anything than before; a thread that was joined may show for a moment."""
    until(lambda: all(now <= then for now, then in zip(counted(), before, strict=True)))


def test_reset_frees_everything_200_times(plain: BuiltImage) -> None:
    """The front-end vanishes with requests parked; what it had is given back each time."""
    with Rig(plain, warm=False, num_request_queues=3) as rig:
        drivers = [rig.driver(size=16) for _ in range(4)]
        rig.cache.fill(0, 1)
        rig.device.reset()
        before: tuple[int, int, int] | None = None
        for cycle in range(200):
            for driver in drivers:
                driver.rewind()
            rig.share()
            for index, driver in enumerate(drivers):
                rig.attach(index, driver)
            clients = [FuseClient(driver, indirect=True, timeout=10) for driver in drivers]
            clients[1].init()
            nodeid = clients[2].lookup(1, b"big").nodeid
            assert len(clients[3].read(nodeid, 0, 100)) == 100
            for client in clients:
                client.submit_read(nodeid, (1 + cycle % 40) * BIG_CHUNK, 100)
            rig.device.reset()
            for driver in drivers:
                assert driver.used_idx >= driver.next_used
            before = before or counted()
            wait_freed(before)
        statistics = rig.device.statistics()
        assert statistics["requests"] == statistics["replies"]


def test_a_device_that_never_started_closes(plain: BuiltImage) -> None:
    before = counted()
    for _ in range(20):
        with Rig(plain):
            pass
    wait_freed(before)


def test_after_reset_there_is_no_session_and_no_setting(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        rig.device.reset()
        with pytest.raises(OSError, match="Invalid argument"):
            rig.device.set_vring_kick(1, None)
        client.driver.rewind()
        rig.share()
        rig.attach(1, client.driver)
        fresh = FuseClient(client.driver, indirect=True, timeout=10)
        with pytest.raises(OSError, match="Input/output"):
            fresh.getattr(1)
        fresh.init()
        assert fresh.getattr(1).nlink == 3
