"""The mock's FUSE calls against the independent device half: what it sends, takes and notices."""

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.virtqueue.split_device import Handler, SplitDevice
from virtqueue import fuse_abi as abi
from virtqueue.driver import Driver
from virtqueue.features import VirtioFeature
from virtqueue.fuse_client import BadReply, FuseClient, cut_to_pieces
from virtqueue.guest_memory import GuestMemory

FEATURES = VirtioFeature.RING_EVENT_IDX | VirtioFeature.RING_INDIRECT_DESC


@pytest.fixture
def driver() -> Iterator[Driver]:
    with GuestMemory([(0x1000, 1 << 20), (0x1000 + (1 << 20), 1 << 20)]) as memory:
        driver = Driver(memory, 64, virtio_features=FEATURES)
        yield driver
        driver.close()


def unique_of(request: bytes) -> int:
    (unique,) = struct.unpack_from("<Q", request, 8)
    return int(unique)


def reply(request: bytes, payload: bytes = b"", *, error: int = 0) -> bytes:
    return struct.pack("<IiQ", 16 + len(payload), error, unique_of(request)) + payload


def read_device(request: bytes, room: int) -> bytes:
    """Answers a READ of (offset, size) with bytes that tell the offset."""
    length, opcode = struct.unpack_from("<II", request)
    assert (length, opcode) == (len(request), 15)
    offset, size = struct.unpack_from("<QI", request, 48)
    assert room == 16 + size
    return reply(request, bytes([offset % 251]) * size)


@pytest.mark.parametrize("indirect", [False, True])
def test_many_reads_in_flight(driver: Driver, indirect: bool) -> None:
    device = SplitDevice(driver)
    client = FuseClient(driver, indirect=indirect)
    uniques = [client.submit_read(5, offset, 3000, kick=False) for offset in range(16)]
    driver.kick()
    assert client.in_flight == 16
    assert device.serve(read_device) == 16
    for offset, unique in reversed(list(enumerate(uniques))):
        assert client.wait(unique) == bytes([offset]) * 3000
    assert client.in_flight == 0
    assert driver.room == 64


def test_a_full_queue_is_told_and_leaks_no_memory(driver: Driver) -> None:
    client = FuseClient(driver)
    for _ in range(16):
        client.submit_read(5, 0, 100)  # four descriptors each
    for _ in range(1000):
        with pytest.raises(IndexError):
            client.submit_read(5, 0, 100)
    assert client.in_flight == 16


@pytest.mark.parametrize("piece", [3, 7, 4096])
def test_any_cut_of_the_buffers(driver: Driver, piece: int) -> None:
    device = SplitDevice(driver)
    client = FuseClient(driver, cut=cut_to_pieces(piece))
    unique = client.submit_read(5, 9, 8)
    device.serve(read_device)
    assert client.wait(unique) == b"\t" * 8


def test_buffers_across_the_border_of_two_regions(driver: Driver) -> None:
    border = 0x1000 + (1 << 20)
    places = iter([border - 44, border + 4096 - 20, border - 8])
    device = SplitDevice(driver)
    client = FuseClient(driver, place=lambda size: next(places) if size < 4096 else border - 2000)
    unique = client.submit_read(5, 3, 4096)
    device.serve(read_device)
    assert client.wait(unique) == b"\3" * 4096


def test_errors_are_os_errors(driver: Driver) -> None:
    device = SplitDevice(driver)
    client = FuseClient(driver)
    unique = client.submit(abi.Opcode.LOOKUP, 1, b"x\0", reply_size=128)
    device.serve(lambda request, room: reply(request, error=-errno.ENOENT))
    with pytest.raises(FileNotFoundError):
        client.wait(unique)


BAD: dict[str, tuple[Handler, str]] = {
    "nothing": (lambda request, room: b"", "used length 0"),
    "half a header": (lambda request, room: reply(request)[:15], "used length 15"),
    "wrong unique": (lambda request, room: struct.pack("<IiQ", 16, 0, 99), "reply to unique 99"),
    "length too small": (lambda request, room: reply(request) + b"x", "reply of 16 bytes, used length 17"),
    "length too large": (
        lambda request, room: struct.pack("<IiQ", 17, 0, 2),
        "reply of 17 bytes, used length 16",
    ),
    "positive error": (lambda request, room: reply(request, error=2), "error 2"),
    "error out of range": (lambda request, room: reply(request, error=-4096), "error -4096"),
    "error with payload": (lambda request, room: reply(request, b"x", error=-2), "error -2 in a reply of 17"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_replies_are_noticed(driver: Driver, name: str) -> None:
    handler, error = BAD[name]
    device = SplitDevice(driver)
    client = FuseClient(driver)
    unique = client.submit(abi.Opcode.GETATTR, 1, bytes(16), reply_size=104)
    device.serve(handler)
    with pytest.raises(BadReply, match=error):
        client.wait(unique)


def test_forget_has_no_reply(driver: Driver) -> None:
    device = SplitDevice(driver)
    client = FuseClient(driver)
    unique = client.submit(abi.Opcode.FORGET, 7, abi.FORGET_IN.pack(1), has_reply=False)
    device.serve(lambda request, room: b"")
    assert client.wait(unique) == b""


def test_a_late_reply_is_a_timeout(driver: Driver) -> None:
    client = FuseClient(driver, timeout=0.01)
    with pytest.raises(TimeoutError, match="no call within"):
        client.getattr(1)


def test_dirents() -> None:
    entry = bytes(abi.ENTRY_OUT_SIZE)
    first = struct.pack("<QQII", 10, 1, 1, 4) + b"a" + bytes(7)
    second = struct.pack("<QQII", 11, 2, 8, 8) + b"12345678"
    plain = abi.parse_dirents(first + second, plus=False)
    assert [(d.name, d.ino, d.off, d.dtype, d.entry) for d in plain] == [
        (b"a", 10, 1, 4, None),
        (b"12345678", 11, 2, 8, None),
    ]
    plus = abi.parse_dirents(entry + first + entry + second, plus=True)
    assert [d.name for d in plus] == [b"a", b"12345678"]
    assert plus[0].entry is not None
    with pytest.raises(ValueError, match="past the end"):
        abi.parse_dirents(second[:-1], plus=False)


def test_sizes_of_wire_structs() -> None:
    # The sizes of <linux/fuse.h>.
    sizes = {
        abi.IN_HEADER: 40,
        abi.OUT_HEADER: 16,
        abi.INIT_IN: 64,
        abi.INIT_OUT: 64,
        abi.GETATTR_IN: 16,
        abi.ATTR: 88,
        abi.OPEN_IN: 8,
        abi.OPEN_OUT: 16,
        abi.READ_IN: 40,
        abi.RELEASE_IN: 24,
        abi.DIRENT: 24,
        abi.LSEEK_IN: 24,
        abi.STATFS_OUT: 80,
        abi.STATX_IN: 24,
        abi.FORGET_ONE: 16,
    }
    for layout, size in sizes.items():
        assert layout.size == size, layout.format
    assert abi.ENTRY_OUT_HEAD.size + abi.ATTR.size == abi.ENTRY_OUT_SIZE
    assert abi.ATTR_OUT_HEAD.size + abi.ATTR.size == abi.ATTR_OUT_SIZE
