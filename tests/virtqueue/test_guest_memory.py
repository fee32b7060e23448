"""The mock's guest memory: addresses, borders, what the allocator gives and takes back."""

import os

import pytest

from virtqueue.guest_memory import PAGE, GuestMemory


def test_reads_and_writes_by_guest_address() -> None:
    with GuestMemory([(0x1000, 2 * PAGE), (0x10_0000, PAGE)]) as memory:
        memory.write(0x1FFE, b"abcd")
        assert memory.read(0x1FFD, 6) == b"\0abcd\0"
        memory.store_u16(0x10_0000, 0x1_FFFE)
        assert memory.load_u16(0x10_0000) == 0xFFFE
        for gpa, length in ((0xFFF, 1), (0x2FFF, 2), (0x10_0FFF, 2), (1 << 64, 1)):
            with pytest.raises(ValueError, match="in no region"):
                memory.read(gpa, length)


def test_the_file_holds_the_region_from_its_offset() -> None:
    with GuestMemory([]) as memory:
        region = memory.add(0x5000, PAGE, mmap_offset=3 * PAGE, user_addr=0x9000)
        memory.write(0x5010, b"here")
        assert os.pread(region.fd, 4, 3 * PAGE + 0x10) == b"here"
        assert os.fstat(region.fd).st_size == 4 * PAGE
        assert memory.user_addr(0x5010) == 0x9010


def test_allocations_are_disjoint_and_come_back() -> None:
    with GuestMemory([(0, 16 * PAGE)]) as memory:
        taken = [memory.allocate(PAGE - 1) for _ in range(8)] + [memory.allocate(2 * PAGE) for _ in range(4)]
        assert len(set(taken)) == 12
        with pytest.raises(MemoryError, match="no room for 1 bytes"):
            memory.allocate(1)
        memory.free(taken[3])
        assert memory.allocate(1) == taken[3]


def test_removing_a_region_forgets_what_was_free_in_it() -> None:
    with GuestMemory([(0, 4 * PAGE)]) as memory:
        extra = memory.add(0x10_0000, 4 * PAGE)
        gpa = memory.allocate(1, region=extra)
        memory.free(gpa)
        memory.remove(extra)
        assert all(memory.allocate(1) < 4 * PAGE for _ in range(4))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(extra.fd)
