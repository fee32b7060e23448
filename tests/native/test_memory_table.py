"""The memory table changes under rings that run and requests that wait."""

from __future__ import annotations

import errno
import time

import pytest

from native.dataplane import MemoryRegion
from tests.native.conftest import BIG_CHUNK
from tests.native.rig import BuiltImage, Rig, until

LOW = (0x10_0000, 16 << 20)
HIGH = (0x10_0000 + (16 << 20), 16 << 20)


def test_a_parked_request_survives_a_table_without_its_ring(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        entry = client.lookup(1, b"big")
        unique = client.submit_read(entry.nodeid, 0, 4096)
        rig.wait_upcalls()
        rig.device.set_mem_table([])
        rig.cache.fill(0, 1)
        assert client.driver.maybe_used() is None
        rig.share()
        assert client.wait(unique) == big[:4096]


def test_a_deadline_passes_while_the_ring_has_no_memory(plain: BuiltImage) -> None:
    with Rig(plain, warm=False, miss_timeout_ms=1) as rig:
        client = rig.client()
        entry = client.lookup(1, b"big")
        unique = client.submit_read(entry.nodeid, 0, 4096)
        rig.wait_upcalls()
        other = rig.memory.regions[0]
        with pytest.raises(OSError):
            rig.device.set_mem_table([MemoryRegion(1 << 40, other.size, 1 << 41, 0, other.fd)])
        sent = time.monotonic()
        until(lambda: time.monotonic() > sent + 0.01)
        rig.share()
        with pytest.raises(OSError) as caught:
            client.wait(unique)
        assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("drain_ms", [0, 1])
def test_a_ring_without_memory_stops(plain: BuiltImage, drain_ms: int) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        entry = client.lookup(1, b"big")
        client.submit_read(entry.nodeid, 0, 4096)
        rig.wait_upcalls()
        rig.device.set_mem_table([])
        assert rig.device.stop_vring(1, drain_ms) == 3


def test_a_ring_outside_of_the_new_table_is_an_error_and_stands_still(plain: BuiltImage) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        region = rig.memory.regions[0]
        with pytest.raises(OSError) as caught:
            rig.device.set_mem_table([MemoryRegion(region.gpa, region.size, 1 << 41, 0, region.fd)])
        assert caught.value.errno == errno.EFAULT
        unique = client.submit(3, 1, bytes(16), reply_size=104)
        rig.share()
        assert len(client.wait(unique)) == 104


def test_add_and_remove_regions_around_parked_requests(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        entry = client.lookup(1, b"big")
        uniques = [client.submit_read(entry.nodeid, i * BIG_CHUNK, BIG_CHUNK) for i in range(8)]
        until(lambda: rig.device.statistics()["misses"] == 8)
        added = rig.memory.add(1 << 33, 2 << 20)
        rig.device.add_mem_region(
            MemoryRegion(added.gpa, added.size, added.user_addr, added.mmap_offset, added.fd)
        )
        rig.cache.fill(0, 4)
        rig.device.remove_mem_region(added.gpa, added.size, added.user_addr)
        rig.cache.fill(4, 4)
        for index, unique in enumerate(uniques):
            assert client.wait(unique) == big[index * BIG_CHUNK :][:BIG_CHUNK]
