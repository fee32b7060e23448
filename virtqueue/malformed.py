"""Chains that no lawful driver makes: one function for each way to break a ring, in a table.

Part of the driver-side mock. ``BROKEN_RINGS``: after ``build(driver)`` and a forced kick the device must stop
that vring and signal err_fd, and touch nothing else. ``MALFORMED_REQUESTS``: the ring is sound, the FUSE
request in it is not; the device must give the chain back, once, and go on.
Functions offer and publish; the caller kicks.
"""

from collections.abc import Callable

from virtqueue import layout
from virtqueue.driver import Buffer, Driver
from virtqueue.fuse_abi import IN_HEADER, Opcode
from virtqueue.layout import DESC_INDIRECT, DESC_NEXT, DESC_WRITE

Build = Callable[[Driver], None]


def _buffer(driver: Driver, length: int = 64) -> Buffer:
    gpa = driver.memory.allocate(length)
    driver.memory.write(gpa, bytes(length))
    return Buffer(gpa, length)


def _outside(driver: Driver) -> int:
    """A page-aligned address behind the last region."""
    return max(region.gpa + region.size for region in driver.memory.regions) + (1 << 30)


def _offer(driver: Driver, head: int) -> None:
    driver.offer(head)
    driver.publish()


def _offer_indirect(driver: Driver, table_gpa: int, length: int, flags: int = DESC_INDIRECT) -> None:
    driver.write_desc(0, table_gpa, length, flags, 1)
    _offer(driver, 0)


def head_out_of_range(driver: Driver) -> None:
    _offer(driver, driver.size)


def head_maximal(driver: Driver) -> None:
    _offer(driver, 0xFFFF)


def avail_idx_jump(driver: Driver) -> None:
    """More new chains than the queue has entries."""
    driver.publish(driver.published + driver.size + 1)


def avail_idx_backwards(driver: Driver) -> None:
    driver.publish(driver.published - 1)


def next_out_of_range(driver: Driver) -> None:
    driver.write_desc(0, *_buffer(driver), DESC_NEXT, driver.size)
    _offer(driver, 0)


def loop_of_one(driver: Driver) -> None:
    driver.write_desc(0, *_buffer(driver), DESC_NEXT, 0)
    _offer(driver, 0)


def loop_of_all(driver: Driver) -> None:
    buffer = _buffer(driver)
    for index in range(driver.size):
        driver.write_desc(index, *buffer, DESC_NEXT, (index + 1) % driver.size)
    _offer(driver, 0)


def readable_after_writable(driver: Driver) -> None:
    driver.write_desc(0, *_buffer(driver), DESC_WRITE | DESC_NEXT, 1)
    driver.write_desc(1, *_buffer(driver))
    _offer(driver, 0)


def outside_memory(driver: Driver) -> None:
    driver.write_desc(0, _outside(driver), 64)
    _offer(driver, 0)


def end_outside_memory(driver: Driver) -> None:
    """Begins in the last region and runs past its end."""
    last = max(driver.memory.regions, key=lambda region: region.gpa)
    driver.write_desc(0, last.gpa + last.size - 32, 64)
    _offer(driver, 0)


def address_wraps(driver: Driver) -> None:
    driver.write_desc(0, (1 << 64) - 16, 64)
    _offer(driver, 0)


def length_maximal(driver: Driver) -> None:
    driver.write_desc(0, _buffer(driver).gpa, 0xFFFF_FFFF)
    _offer(driver, 0)


def indirect_nested(driver: Driver) -> None:
    table = driver.memory.allocate(4096)
    inner = driver.memory.allocate(4096)
    driver.write_desc(0, *_buffer(driver), table_gpa=inner)
    driver.write_desc(0, inner, layout.DESC.size, DESC_INDIRECT, table_gpa=table)
    _offer_indirect(driver, table, layout.DESC.size)


def indirect_and_next(driver: Driver) -> None:
    table = driver.memory.allocate(4096)
    driver.write_desc(0, *_buffer(driver), table_gpa=table)
    driver.write_desc(1, *_buffer(driver))
    _offer_indirect(driver, table, layout.DESC.size, DESC_INDIRECT | DESC_NEXT)


def indirect_empty(driver: Driver) -> None:
    _offer_indirect(driver, driver.memory.allocate(4096), 0)


def indirect_odd_length(driver: Driver) -> None:
    """A table whose length is not a multiple of a descriptor's."""
    table = driver.memory.allocate(4096)
    driver.write_desc(0, *_buffer(driver), table_gpa=table)
    _offer_indirect(driver, table, layout.DESC.size + 1)


def indirect_outside_memory(driver: Driver) -> None:
    _offer_indirect(driver, _outside(driver), 4 * layout.DESC.size)


def indirect_end_outside_memory(driver: Driver) -> None:
    last = max(driver.memory.regions, key=lambda region: region.gpa)
    table = last.gpa + last.size - layout.DESC.size
    driver.write_desc(0, *_buffer(driver), DESC_NEXT, 1, table_gpa=table)
    _offer_indirect(driver, table, 2 * layout.DESC.size)


def indirect_next_out_of_range(driver: Driver) -> None:
    table = driver.memory.allocate(4096)
    driver.write_desc(0, *_buffer(driver), DESC_NEXT, 2, table_gpa=table)
    _offer_indirect(driver, table, 2 * layout.DESC.size)


def indirect_loop(driver: Driver) -> None:
    table = driver.memory.allocate(4096)
    driver.write_desc(0, *_buffer(driver), DESC_NEXT, 1, table_gpa=table)
    driver.write_desc(1, *_buffer(driver), DESC_NEXT, 0, table_gpa=table)
    _offer_indirect(driver, table, 2 * layout.DESC.size)


BROKEN_RINGS: dict[str, Build] = {
    build.__name__: build
    for build in (
        head_out_of_range,
        head_maximal,
        avail_idx_jump,
        avail_idx_backwards,
        next_out_of_range,
        loop_of_one,
        loop_of_all,
        readable_after_writable,
        outside_memory,
        end_outside_memory,
        address_wraps,
        length_maximal,
        indirect_nested,
        indirect_and_next,
        indirect_empty,
        indirect_odd_length,
        indirect_outside_memory,
        indirect_end_outside_memory,
        indirect_next_out_of_range,
        indirect_loop,
    )
}


def _request(driver: Driver, data: bytes, room: int) -> None:
    readable = []
    if data:
        gpa = driver.memory.allocate(len(data))
        driver.memory.write(gpa, data)
        readable.append(Buffer(gpa, len(data)))
    writable = [_buffer(driver, room)] if room else []
    driver.add(readable, writable)
    driver.publish()


def _header(length: int, opcode: int = Opcode.GETATTR, nodeid: int = 1) -> bytes:
    return IN_HEADER.pack(length, opcode, 2, nodeid, 0, 0, 0, 0, 0)


def descriptors_empty(driver: Driver) -> None:
    """Buffers of no bytes: the standard does not forbid them, and they hold no request."""
    gpa = driver.memory.allocate(64)
    driver.add([Buffer(gpa, 0), Buffer(gpa, 0)], [Buffer(gpa, 0)])
    driver.publish()


def header_missing(driver: Driver) -> None:
    _request(driver, b"", 256)


def header_cut_short(driver: Driver) -> None:
    _request(driver, _header(56)[:39], 256)


def length_too_large(driver: Driver) -> None:
    """The header claims more bytes than the chain has."""
    _request(driver, _header(0x7FFF_FFFF) + bytes(16), 256)


def length_too_small(driver: Driver) -> None:
    """The header claims to be shorter than a header."""
    _request(driver, _header(8) + bytes(16), 256)


def arguments_cut_short(driver: Driver) -> None:
    _request(driver, _header(IN_HEADER.size + 4) + bytes(4), 256)


def name_without_end(driver: Driver) -> None:
    _request(driver, _header(IN_HEADER.size + 5, Opcode.LOOKUP) + b"abcde", 256)


def reply_room_missing(driver: Driver) -> None:
    _request(driver, _header(IN_HEADER.size + 16) + bytes(16), 0)


def reply_room_short_of_header(driver: Driver) -> None:
    _request(driver, _header(IN_HEADER.size + 16) + bytes(16), 15)


def reply_room_short_of_reply(driver: Driver) -> None:
    _request(driver, _header(IN_HEADER.size + 16) + bytes(16), 20)


def opcode_unknown(driver: Driver) -> None:
    _request(driver, _header(IN_HEADER.size + 16, 0xFFFF_FFFE) + bytes(16), 256)


def nodeid_unknown(driver: Driver) -> None:
    _request(driver, _header(IN_HEADER.size + 16, Opcode.GETATTR, (1 << 64) - 1) + bytes(16), 256)


MALFORMED_REQUESTS: dict[str, Build] = {
    build.__name__: build
    for build in (
        descriptors_empty,
        header_missing,
        header_cut_short,
        length_too_large,
        length_too_small,
        arguments_cut_short,
        name_without_end,
        reply_room_missing,
        reply_room_short_of_header,
        reply_room_short_of_reply,
        opcode_unknown,
        nodeid_unknown,
    )
}
