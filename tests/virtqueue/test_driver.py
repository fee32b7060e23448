"""The mock driver against an independent device half: what it builds is lawful, what should be broken is."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.virtqueue.split_device import BrokenRing, SplitDevice
from virtqueue import layout, malformed
from virtqueue.driver import Buffer, Driver
from virtqueue.features import VirtioFeature
from virtqueue.guest_memory import GuestMemory

EVENT_IDX = VirtioFeature.RING_EVENT_IDX


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory() as memory:
        yield memory


@pytest.fixture
def driver(memory: GuestMemory) -> Iterator[Driver]:
    driver = Driver(memory, 16, virtio_features=EVENT_IDX)
    yield driver
    driver.close()


def echo(readable: bytes, room: int) -> bytes:
    return readable[::-1][:room]


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("base", [0, 65530])
def test_chains_come_back_with_what_the_device_wrote(memory: GuestMemory, indirect: bool, base: int) -> None:
    driver = Driver(memory, 8, virtio_features=EVENT_IDX, base=base)
    device = SplitDevice(driver)
    source, target = memory.allocate(100), memory.allocate(100)
    for round_ in range(20):
        data = bytes([round_]) * 60 + b"end"
        memory.write(source, data)
        head = driver.submit(
            [Buffer(source, 10), Buffer(source + 10, 53)], [Buffer(target, 40), Buffer(target + 40, 60)],
            indirect=indirect,
        )  # fmt: skip
        assert device.serve(echo) == 1
        assert driver.wait_used() == (head, 63)
        assert memory.read(target, 63) == data[::-1]
    assert driver.room == 8
    driver.close()


def test_a_buffer_crosses_two_regions() -> None:
    with GuestMemory([(0x1000, 1 << 20), (0x1000 + (1 << 20), 1 << 20)]) as memory:
        driver = Driver(memory, 4)
        device = SplitDevice(driver)
        border = 0x1000 + (1 << 20)
        memory.write(border - 3, b"abcdef")
        assert memory.regions[0].mapping[-3:] == b"abc"
        assert memory.regions[1].mapping[:3] == b"def"
        driver.submit([Buffer(border - 3, 6)], [Buffer(border - 100, 200)])
        device.serve(echo)
        assert driver.wait_used().written == 6
        assert memory.read(border - 100, 6) == b"fedcba"
        driver.close()


def test_the_driver_kicks_only_when_asked_with_event_idx(memory: GuestMemory, driver: Driver) -> None:
    device = SplitDevice(driver)
    buffer = Buffer(memory.allocate(8), 8)
    driver.add([buffer], [])
    driver.publish()
    assert driver.kick()  # avail_event is 0, index moves 0 -> 1
    driver.add([buffer], [])
    driver.publish()
    assert not driver.kick()  # the device has not asked again
    assert device.serve(echo) == 2
    driver.add([buffer], [])
    driver.publish()
    assert driver.kick()


def test_without_event_idx_the_flag_decides(memory: GuestMemory) -> None:
    driver = Driver(memory, 8)
    buffer = Buffer(memory.allocate(8), 8)
    driver.add([buffer], [])
    driver.publish()
    assert driver.kick()
    memory.store_u16(driver.used_gpa, layout.USED_NO_NOTIFY)
    driver.add([buffer], [])
    driver.publish()
    assert not driver.kick()
    driver.close()


def test_waits_end(driver: Driver) -> None:
    with pytest.raises(TimeoutError, match="no call within"):
        driver.wait_used(timeout=0.01)
    with pytest.raises(TimeoutError, match="err_fd"):
        driver.wait_error(timeout=0.01)


def test_a_head_that_was_never_offered_is_noticed(memory: GuestMemory, driver: Driver) -> None:
    memory.write(driver.used_gpa + layout.RING_OFFSET, layout.USED_ELEM.pack(3, 0))
    memory.store_u16(driver.used_gpa + 2, 1)
    with pytest.raises(ValueError, match="head 3"):
        driver.wait_used()


def test_no_room_leaves_the_free_list_whole(memory: GuestMemory, driver: Driver) -> None:
    buffer = Buffer(memory.allocate(8), 8)
    with pytest.raises(IndexError):
        driver.add([buffer] * 17, [])
    assert driver.room == 16


@pytest.mark.parametrize("name", malformed.BROKEN_RINGS)
def test_each_broken_ring_is_broken(driver: Driver, name: str) -> None:
    device = SplitDevice(driver)
    malformed.BROKEN_RINGS[name](driver)
    driver.kick(force=True)
    with pytest.raises(BrokenRing):
        device.serve(echo)


@pytest.mark.parametrize("name", malformed.MALFORMED_REQUESTS)
def test_each_malformed_request_is_a_sound_chain(driver: Driver, name: str) -> None:
    device = SplitDevice(driver)
    malformed.MALFORMED_REQUESTS[name](driver)
    driver.kick()
    assert device.serve(lambda readable, room: b"") == 1
    driver.wait_used()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=6),
    readable=st.integers(1, 6),
    rounds=st.integers(1, 12),
    indirect=st.booleans(),
    base=st.integers(0, 65535),
)
def test_any_lawful_chain_is_understood(
    sizes: list[int], readable: int, rounds: int, indirect: bool, base: int
) -> None:
    with GuestMemory([(0, 1 << 20)]) as memory:
        driver = Driver(memory, 8, virtio_features=EVENT_IDX, base=base)
        device = SplitDevice(driver)
        buffers = [Buffer(memory.allocate(size), size) for size in sizes]
        for _ in range(rounds):
            head = driver.submit(buffers[:readable], buffers[readable:], indirect=indirect)
            assert device.serve(lambda data, room: bytes(room)) == 1
            assert driver.wait_used() == (head, sum(sizes[readable:]))
        assert driver.in_flight == 0
        driver.close()
