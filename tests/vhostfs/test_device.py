"""What a front-end says, done to the real data plane. No image: a request unknown to all is answered."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest

from native import dataplane
from tests.virtqueue.bodies import REGION
from tests.virtqueue.fake_fd import FakeFd
from tests.virtqueue.serving import serving
from vhostfs.device import VirtioFsDevice
from virtqueue import events
from virtqueue.driver import Driver
from virtqueue.errors import RequestRefused
from virtqueue.features import VirtioFeature
from virtqueue.frontend import PROTOCOL_FEATURES, Frontend, Refused
from virtqueue.guest_memory import GuestMemory
from virtqueue.malformed import MALFORMED_REQUESTS
from virtqueue.messages import Request, VringState
from virtqueue.offer import virtio_fs_offer

ALL_PROTOCOL = 0x1A009


@pytest.fixture
def native() -> Iterator[dataplane.Device]:
    with closing(dataplane.ChunkStore()) as store, closing(dataplane.Device(store)) as device:
        yield device


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory([(0x10_0000, 4 << 20), (0x4000_0000, 1 << 20)]) as memory:
        yield memory


Talk = Callable[[Callable[[Frontend], None]], None]


@pytest.fixture
def talk(native: dataplane.Device, tmp_path: Path) -> Talk:
    """Runs a front-end against a server with the real device."""

    def run(client: Callable[[Frontend], None]) -> None:
        path = tmp_path / "vhost.sock"

        def connect() -> None:
            with Frontend.connect(str(path)) as frontend:
                client(frontend)

        async def main() -> None:
            with closing(VirtioFsDevice(native)) as device:
                async with serving(path, device, virtio_fs_offer(1)):
                    await asyncio.to_thread(connect)

        asyncio.run(main())

    return run


def answers(driver: Driver) -> bool:
    """Whether the device gives a request back."""
    MALFORMED_REQUESTS["opcode_unknown"](driver)
    driver.kick()
    return driver.wait_used().written == 16


def test_every_event_has_an_action(native: dataplane.Device) -> None:
    with closing(VirtioFsDevice(native)) as device:
        assert set(device._actions) == set(get_args(events.Event))


@pytest.mark.parametrize("protocol_features", [0, int(PROTOCOL_FEATURES)], ids=["table", "slots"])
def test_a_vring_runs_stops_and_goes_on(talk: Talk, memory: GuestMemory, protocol_features: int) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate(protocol_features=protocol_features)
        frontend.share(memory)
        driver = frontend.start_vring(1, memory, size=16, base=65533)
        for _ in range(6):
            assert answers(driver)
        base = frontend.stop_vring(1)
        assert base == driver.next_avail == 3
        frontend.resume_vring(1, base=base)
        assert answers(driver)

    talk(client)


def test_without_protocol_features_a_vring_runs_at_once(talk: Talk, memory: GuestMemory) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate(virtio_features=int(VirtioFeature.VERSION_1))
        frontend.share(memory)
        assert answers(frontend.start_vring(1, memory))

    talk(client)


def test_a_vring_without_a_kick_descriptor_is_polled(talk: Talk, memory: GuestMemory) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate()
        frontend.share(memory)
        driver = frontend.start_vring(1, memory, polling=True)
        MALFORMED_REQUESTS["opcode_unknown"](driver)
        assert driver.wait_used().written == 16

    talk(client)


def test_a_kick_before_enable_is_not_lost(talk: Talk, memory: GuestMemory) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate()
        frontend.share(memory)
        driver = frontend.start_vring(1, memory, enable=False)
        MALFORMED_REQUESTS["opcode_unknown"](driver)
        driver.kick(force=True)
        with pytest.raises(TimeoutError):
            driver.wait_used(timeout=0.05)
        frontend.enable_vring(1)
        assert driver.wait_used().written == 16

    talk(client)


@pytest.mark.parametrize("by", ["RESET_DEVICE", "status 0"])
def test_a_reset_leaves_memory_shared(talk: Talk, memory: GuestMemory, by: str) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate(protocol_features=ALL_PROTOCOL)
        frontend.share(memory)
        assert answers(frontend.start_vring(1, memory))
        if by == "RESET_DEVICE":
            frontend.set(Request.RESET_DEVICE)
        else:
            frontend.set(Request.SET_STATUS, 0)
        frontend.set(Request.SET_FEATURES, frontend.virtio_features)
        assert answers(frontend.start_vring(1, memory, size=8))

    talk(client)


def test_a_disabled_vring_is_set_up_again(talk: Talk, memory: GuestMemory) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate()
        frontend.share(memory)
        assert answers(frontend.start_vring(1, memory, size=64))
        frontend.enable_vring(1, False)
        assert answers(frontend.start_vring(1, memory, size=16))

    talk(client)


def test_memory_comes_and_goes_while_a_vring_runs(talk: Talk, memory: GuestMemory) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate()
        frontend.share(memory)
        driver = frontend.start_vring(1, memory)
        hot = memory.add(0x8000_0000, 1 << 20, mmap_offset=1 << 16)
        frontend.add_region(hot)
        assert answers(driver)
        frontend.remove_region(hot, with_fd=True)
        assert answers(driver)
        with pytest.raises(Refused):
            frontend.remove_region(hot)

    talk(client)


def test_memory_that_cannot_be_mapped_is_refused(talk: Talk, memory: GuestMemory) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate(protocol_features=int(PROTOCOL_FEATURES))
        frontend.share(memory)
        short = memory.add(0x8000_0000, 1 << 20)
        os.ftruncate(short.fd, 4096)  # shorter than the region that it is said to hold
        with pytest.raises(Refused):
            frontend.add_region(short)
        assert answers(frontend.start_vring(1, memory))
        # A table that fails leaves none, and the next one is taken.
        frontend.stop_vring(1)
        with pytest.raises(Refused):
            frontend.set_mem_table(memory.regions)
        with pytest.raises(Refused):
            frontend.start_vring(1, memory)
        frontend.set_mem_table(memory.regions[:2])
        assert answers(frontend.start_vring(1, memory))

    talk(client)


def test_addresses_outside_memory_are_refused(talk: Talk, memory: GuestMemory) -> None:
    def client(frontend: Frontend) -> None:
        frontend.negotiate()
        frontend.add_region(memory.regions[1])
        with pytest.raises(Refused):
            frontend.start_vring(1, memory)
        frontend.set(Request.SET_VRING_NUM, VringState(0, 2))  # the session goes on

    talk(client)


class StuckDataPlane:
    """A data plane whose queue threads do not come to rest until told to."""

    queue_count = 2

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.seen: list[int] = []

    def add_mem_region(self, region: dataplane.MemoryRegion) -> None:
        self.entered.set()
        assert self.release.wait(5)
        self.seen.append(region.fd)
        raise OSError("told to nobody")


def test_a_cancelled_call_waits_for_its_thread() -> None:
    """Else the message's descriptors would be closed under the thread."""

    async def main() -> None:
        stuck: Any = StuckDataPlane()
        with closing(VirtioFsDevice(stuck)) as device:
            event = events.MemRegionAdded(REGION, FakeFd(77))
            call = asyncio.create_task(device.apply(event))
            await asyncio.to_thread(stuck.entered.wait, 5)
            for _ in range(2):
                call.cancel()
                await asyncio.wait([call], timeout=0.02)
                assert not call.done()
            stuck.release.set()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert stuck.seen == [77]

    asyncio.run(main())


def test_a_descriptor_is_taken_only_when_the_data_plane_has_it(native: dataplane.Device) -> None:
    async def main() -> None:
        with closing(VirtioFsDevice(native)) as device:
            fd = FakeFd(987654)
            with pytest.raises(RequestRefused):
                await device.apply(events.VringKickSet(99, fd))  # there is no such vring
            assert fd.fileno() == 987654

    asyncio.run(main())
