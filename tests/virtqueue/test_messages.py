"""The wire form of messages, written out by hand from the specification."""

import struct

from tests.virtqueue.bodies import BODIES, EXAMPLES, REGION
from virtqueue.messages import (
    MESSAGE_KINDS,
    ConfigAccess,
    Request,
    VringAddr,
    VringFd,
    VringState,
    pack_body,
    pack_reply,
    pack_request,
)


def test_the_tables_know_every_request() -> None:
    assert set(MESSAGE_KINDS) == set(Request) == set(EXAMPLES) == set(BODIES)


def test_wire_form_of_a_mem_table() -> None:
    # By hand from the specification: count, padding, and four u64 for each region.
    payload = struct.pack("=IIQQQQ", 1, 0, REGION.gpa, REGION.size, REGION.user_addr, REGION.mmap_offset)
    assert pack_request(Request.SET_MEM_TABLE, (REGION,)) == struct.pack("=III", 5, 1, 40) + payload


def test_wire_form_of_a_single_region() -> None:
    payload = struct.pack("=QQQQQ", 0, REGION.gpa, REGION.size, REGION.user_addr, REGION.mmap_offset)
    assert pack_body(REGION) == payload


def test_wire_form_of_a_vring_fd() -> None:
    assert pack_body(VringFd(3, True)) == struct.pack("=Q", 3)
    assert pack_body(VringFd(3, False)) == struct.pack("=Q", 0x103)


def test_wire_form_of_vring_bodies() -> None:
    assert pack_body(VringState(2, 77)) == struct.pack("=II", 2, 77)
    addr = VringAddr(1, 1, desc=0x10, used=0x20, avail=0x30, log=0x40)
    assert pack_body(addr) == struct.pack("=IIQQQQ", 1, 1, 0x10, 0x20, 0x30, 0x40)


def test_wire_form_of_config_space() -> None:
    assert pack_body(ConfigAccess(4, 2, 1, b"ab")) == struct.pack("=III", 4, 2, 1) + b"ab"


def test_header_flags() -> None:
    assert pack_request(3) == struct.pack("=III", 3, 0x1, 0)
    assert pack_request(2, 5, need_reply=True) == struct.pack("=IIIQ", 2, 0x9, 8, 5)
    assert pack_reply(11, VringState(1, 9)) == struct.pack("=IIIII", 11, 0x5, 8, 1, 9)
