"""The memory table changes under rings that run and requests that wait."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from native.dataplane import MemoryRegion
from tests.native.conftest import BIG_CHUNK
from tests.native.rig import DEADLINE_S, BuiltImage, Rig, until
from virtqueue.fuse_client import FuseClient

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


def split(rig: Rig, at: int) -> list[MemoryRegion]:
    """The one region as two that touch, with the border at guest address `at`."""
    (region,) = rig.memory.regions
    first = at - region.gpa
    return [
        MemoryRegion(region.gpa, first, region.user_addr, 0, region.fd),
        MemoryRegion(at, region.size - first, region.user_addr + first, first, region.fd),
    ]


@pytest.mark.parametrize("where", [17, 16, 5000, 4096, BIG_CHUNK, 15])
def test_a_new_border_inside_the_buffer_of_a_parked_read(plain: BuiltImage, big: bytes, where: int) -> None:
    with Rig(plain, warm=False) as rig:
        gpas: list[int] = []

        def place(length: int) -> int:
            gpas.append(rig.memory.allocate(length))
            return gpas[-1]

        client = rig.client()
        entry = client.lookup(1, b"big")
        driver = client.driver
        placed = FuseClient(driver, indirect=True, timeout=DEADLINE_S, place=place)
        unique = placed.submit_read(entry.nodeid, 1, BIG_CHUNK)
        rig.wait_upcalls()
        rig.device.set_mem_table(split(rig, gpas[1] + where))
        rig.cache.fill()
        assert placed.wait(unique) == big[1 : 1 + BIG_CHUNK]


def test_memory_that_moved_under_a_parked_read(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        entry = client.lookup(1, b"big")
        unique = client.submit_read(entry.nodeid, 0, 1 << 20)
        rig.wait_upcalls()
        (region,) = rig.memory.regions
        # elsewhere in the front-end, and so mapped anew here
        moved = MemoryRegion(region.gpa, region.size, region.user_addr, 0, region.fd)
        ballast = MemoryRegion(1 << 40, region.size, 1 << 45, 0, region.fd)
        rig.device.set_mem_table([ballast, moved])
        rig.cache.fill()
        assert client.wait(unique) == big[: 1 << 20]


def test_a_buffer_that_is_no_memory_any_more_is_eio_where_the_header_fits(plain: BuiltImage) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        entry = client.lookup(1, b"big")
        high = rig.memory.add(1 << 33, 1 << 20)

        def place(length: int) -> int:
            return high.gpa + (0 if length == 80 else 4096 - 16)

        placed = FuseClient(client.driver, indirect=True, timeout=DEADLINE_S, place=place)
        rig.share()
        unique = placed.submit_read(entry.nodeid, 0, 4096)
        rig.wait_upcalls()
        low = rig.memory.regions[0]
        regions = [
            MemoryRegion(low.gpa, low.size, low.user_addr, 0, low.fd),
            MemoryRegion(high.gpa, 4096, high.user_addr, 0, high.fd),
        ]
        rig.device.set_mem_table(regions)
        rig.cache.fill()
        with pytest.raises(OSError) as caught:
            placed.wait(unique)
        assert caught.value.errno == errno.EIO


def test_a_reply_that_has_no_memory_at_all_comes_back_empty(plain: BuiltImage) -> None:
    with Rig(plain, warm=False) as rig:
        client = rig.client()
        entry = client.lookup(1, b"big")
        high = rig.memory.add(1 << 33, 1 << 20)
        placed = FuseClient(client.driver, indirect=True, timeout=DEADLINE_S, place=lambda _: high.gpa)
        rig.share()
        placed.submit_read(entry.nodeid, 0, 4096)
        rig.wait_upcalls()
        rig.device.remove_mem_region(high.gpa, high.size, high.user_addr)
        rig.cache.fill()
        assert client.driver.wait_used().written == 0


def test_the_table_changes_while_the_pool_reads_into_memory(
    plain: BuiltImage, big: bytes, tmp_path: Path
) -> None:
    """A read from the disk that is under way keeps its memory until it is done."""
    with Rig(plain, data_path=tmp_path / "data") as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        os.fsync(rig.cache.data_fd)
        for _ in range(30):
            os.posix_fadvise(rig.cache.data_fd, 0, 0, os.POSIX_FADV_DONTNEED)
            uniques = [client.submit_read(nodeid, offset, 1 << 18) for offset in range(0, 3 << 20, 1 << 18)]
            rig.share()
            rig.share()
            for index, unique in enumerate(uniques):
                assert client.wait(unique) == big[index << 18 : (index + 1) << 18]
