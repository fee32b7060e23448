"""What the control plane may set, in which order, and that a ring never reaches past its memory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from native.dataplane import ChunkStore, Device, MemoryRegion
from tests.native.rig import BuiltImage, Rig
from virtqueue import layout
from virtqueue.fuse_abi import Opcode


@pytest.fixture
def rig(plain: BuiltImage) -> Iterator[Rig]:
    with Rig(plain, regions=((0x10_0000, 4 << 20),)) as rig:
        yield rig


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        yield
    assert caught.value.errno == number


@pytest.mark.parametrize("num", [0, 3, 6, 32767, 32769, 65536, 1 << 31])
def test_a_size_is_a_power_of_two_up_to_32768(rig: Rig, num: int) -> None:
    with refused(errno.EINVAL):
        rig.device.set_vring_num(1, num)


@pytest.mark.parametrize("index", [2, 65, 1 << 31])
def test_an_index_past_the_last_queue(rig: Rig, index: int) -> None:
    fd = os.eventfd(0)
    for call in (
        lambda: rig.device.set_vring_num(index, 128),
        lambda: rig.device.set_vring_base(index, 0),
        lambda: rig.device.set_vring_addr(index, desc=0, used=0, avail=0),
        lambda: rig.device.set_vring_kick(index, fd),
        lambda: rig.device.set_vring_call(index, fd),
        lambda: rig.device.set_vring_err(index, fd),
        lambda: rig.device.set_vring_enable(index, True),
        lambda: rig.device.stop_vring(index, 0),
    ):
        with refused(errno.EINVAL):
            call()
    os.close(fd)  # it stayed ours


@pytest.mark.parametrize("queues", [-1, 65])
def test_64_request_queues_at_most(queues: int) -> None:
    store = ChunkStore()
    with pytest.raises((OSError, ValueError)):
        Device(store, num_request_queues=queues)
    store.close()


def test_64_request_queues_serve(plain: BuiltImage) -> None:
    with Rig(plain, num_request_queues=64) as rig:
        first = rig.client(1, size=8)
        clients = [rig.client(index, size=8, init=False) for index in (0, *range(2, 65))]
        for client in [first, *clients]:
            assert client.lookup(1, b"dir").attr.nlink == 2


def test_size_and_base_of_a_started_ring_stay(rig: Rig) -> None:
    client = rig.client()
    with refused(errno.EBUSY):
        rig.device.set_vring_num(1, 256)
    with refused(errno.EBUSY):
        rig.device.set_vring_base(1, 0)
    assert client.lookup(1, b"big").nodeid


def test_base_has_16_bits(rig: Rig) -> None:
    with refused(errno.EINVAL):
        rig.device.set_vring_base(1, 1 << 16)
    rig.device.set_vring_base(1, 0xFFFF)
    assert rig.device.stop_vring(1, 0) == 0xFFFF


def test_start_without_size_or_addresses(rig: Rig) -> None:
    fd = os.eventfd(0)
    with refused(errno.EINVAL):
        rig.device.set_vring_kick(1, fd)
    rig.device.set_vring_num(1, 128)
    with refused(errno.EINVAL):
        rig.device.set_vring_kick(1, fd)
    os.close(fd)


def test_a_kick_fd_that_cannot_be_watched_stays_the_callers(rig: Rig) -> None:
    driver = rig.driver()
    rig.device.set_vring_num(1, driver.size)
    rig.addresses(1, driver)
    fd = os.memfd_create("no eventfd")
    with refused(errno.EPERM):
        rig.device.set_vring_kick(1, fd)
    os.close(fd)
    rig.attach(1, driver)


def test_a_size_set_after_the_addresses_is_checked_against_memory(rig: Rig) -> None:
    region = rig.memory.regions[0]
    end = region.user_addr + region.size
    rig.device.set_vring_num(1, 1)
    rig.device.set_vring_addr(1, desc=end - 64, used=end - 48, avail=end - 16)
    rig.device.set_vring_num(1, 32768)
    with refused(errno.EINVAL):
        rig.device.set_vring_kick(1, None)


def test_addresses_before_the_size(rig: Rig) -> None:
    driver = rig.driver()
    rig.addresses(1, driver)
    client = rig.client(1)
    assert client.lookup(1, b"big").nodeid


@pytest.mark.parametrize("size", [1, 2, 128, 32768])
def test_each_area_must_lie_in_memory(rig: Rig, size: int) -> None:
    region = rig.memory.regions[0]
    begin, end = region.user_addr, region.user_addr + region.size
    sizes = {
        "desc": layout.desc_table_size(size),
        "avail": layout.avail_size(size),
        "used": layout.used_size(size),
    }
    align = {"desc": 16, "avail": 2, "used": 4}
    rig.device.set_vring_num(1, size)
    for area, length in sizes.items():
        others = {name: begin for name in sizes if name != area}
        last = (end - length) // align[area] * align[area]
        rig.device.set_vring_addr(1, **others, **{area: last})
        for outside in (last + align[area], end, begin - align[area], (1 << 64) - align[area]):
            with refused(errno.EFAULT):
                rig.device.set_vring_addr(1, **others, **{area: outside})


@pytest.mark.parametrize(("area", "off"), [("desc", 8), ("avail", 1), ("used", 2)])
def test_areas_must_be_aligned(rig: Rig, area: str, off: int) -> None:
    begin = rig.memory.regions[0].user_addr
    rig.device.set_vring_num(1, 8)
    with refused(errno.EFAULT):
        rig.device.set_vring_addr(1, **{"desc": begin, "avail": begin, "used": begin, area: begin + off})


@pytest.mark.parametrize("askew", [1, 2, 8])
def test_areas_must_be_aligned_in_our_memory_too(rig: Rig, askew: int) -> None:
    fd = rig.memory.regions[0].fd
    rig.device.set_mem_table([MemoryRegion(0, 1 << 20, 0, askew, fd)])
    rig.device.set_vring_num(1, 8)
    with refused(errno.EFAULT):
        rig.device.set_vring_addr(1, desc=0, avail=4096, used=8192)


def test_memory_at_user_address_0_is_resolved_again(plain: BuiltImage) -> None:
    with Rig(plain, regions=()) as rig:
        region = rig.memory.add(0x10_0000, 4 << 20, user_addr=0)
        rig.share()
        driver = rig.driver()
        rig.device.set_features(indirect=True, event_idx=True)
        rig.device.set_vring_num(1, driver.size)
        gap = 4096 * 8
        desc, avail = driver.desc_gpa - region.gpa, driver.avail_gpa - region.gpa
        rig.device.set_vring_addr(1, desc=desc + gap, avail=avail + gap, used=0)
        rig.device.set_mem_table([])
        with refused(errno.EINVAL):
            rig.device.set_vring_kick(1, None)
        rig.share()
        rig.device.set_vring_kick(1, None)
        assert rig.device.stop_vring(1, 0) == 0


def test_regions_that_overlap_wrap_or_run_past_their_file(rig: Rig) -> None:
    fd = rig.memory.regions[0].fd
    good = MemoryRegion(1 << 20, 1 << 20, 1 << 32, 0, fd)
    for change in (
        {"size": 0},
        {"gpa": (1 << 64) - 4096},
        {"user_addr": (1 << 64) - 4096},
        {"size": (1 << 64) - 1, "gpa": 0, "user_addr": 0},
        {"mmap_offset": 4 << 20},
        {"mmap_offset": (1 << 64) - 4096},
        {"size": (4 << 20) + 1},
    ):
        with refused(errno.EINVAL):
            rig.device.set_mem_table([good._replace(**change)])
    for gpa, user_addr in ((1 << 20, 1 << 40), ((2 << 20) - 1, 1 << 40), (1, 1 << 40), (1 << 40, 1 << 32)):
        with refused(errno.EINVAL):
            rig.device.set_mem_table([good, good._replace(gpa=gpa, user_addr=user_addr)])
    rig.device.set_mem_table([good, good._replace(gpa=2 << 20, user_addr=(1 << 32) + (1 << 20))])
    with refused(errno.ENOENT):
        rig.device.remove_mem_region(good.gpa, good.size + 1, good.user_addr)


def test_509_regions_and_no_more(rig: Rig) -> None:
    fd = rig.memory.regions[0].fd
    regions = [MemoryRegion(i << 20, 4096, i << 30, 0, fd) for i in range(510)]
    rig.device.set_mem_table(regions[:509])
    with refused(errno.ENOSPC):
        rig.device.add_mem_region(regions[509])
    rig.device.remove_mem_region(100 << 20, 4096, 100 << 30)
    rig.device.add_mem_region(regions[509])
    with refused(errno.ENOSPC):
        rig.device.set_mem_table(regions)


def test_a_closed_device_is_a_value_error(plain: BuiltImage) -> None:
    rig = Rig(plain)
    rig.close()
    with pytest.raises(ValueError, match="closed"):
        rig.device.set_vring_num(1, 128)


def test_a_new_kick_fd_starts_the_ring_over_where_it_stands(rig: Rig) -> None:
    client = rig.client()
    entry = client.lookup(1, b"big")
    rig.device.set_vring_kick(1, os.dup(client.driver.kick_fd))
    assert len(client.read(entry.nodeid, 0, 4096)) == 4096
    assert rig.device.stop_vring(1, 100) == 3
    client.submit(Opcode.GETATTR, 1, bytes(16), reply_size=104)
    rig.device.set_vring_kick(1, os.dup(client.driver.kick_fd))
    client.wait_any()
    assert rig.device.stop_vring(1, 100) == 4
