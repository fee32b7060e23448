"""The FUSE session, and that every request has exactly one reply, whatever is in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from tests.native.rig import BuiltImage, Rig
from virtqueue import fuse_abi as abi
from virtqueue.driver import Buffer
from virtqueue.fuse_abi import InitFlag, Opcode
from virtqueue.fuse_client import INIT_FLAGS, FuseClient
from virtqueue.malformed import MALFORMED_REQUESTS

MUTATING = [
    Opcode.SETATTR,
    Opcode.SYMLINK,
    Opcode.MKNOD,
    Opcode.MKDIR,
    Opcode.UNLINK,
    Opcode.RMDIR,
    Opcode.RENAME,
    Opcode.RENAME2,
    Opcode.LINK,
    Opcode.WRITE,
    Opcode.SETXATTR,
    Opcode.REMOVEXATTR,
    Opcode.CREATE,
    Opcode.TMPFILE,
    Opcode.FALLOCATE,
    Opcode.COPY_FILE_RANGE,
]
NOT_NEEDED = [Opcode.FLUSH, Opcode.INTERRUPT]  # ENOSYS says: never again
NOTHING_TO_DO = [Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.SYNCFS]
UNKNOWN = [
    Opcode.BMAP,
    Opcode.POLL,
    Opcode.SETUPMAPPING,
    Opcode.REMOVEMAPPING,
    7,
    19,
    53,
    54,
    4096,
    0xFFFF_FFFF,
]
#: the fixed arguments of each operation that has some, in bytes
ARGUMENTS: dict[int, int] = {
    Opcode.INIT: 16,
    Opcode.LOOKUP: 1,
    Opcode.GETATTR: abi.GETATTR_IN.size,
    Opcode.STATX: abi.STATX_IN.size,
    Opcode.OPEN: abi.OPEN_IN.size,
    Opcode.OPENDIR: abi.OPEN_IN.size,
    Opcode.READ: abi.READ_IN.size,
    Opcode.READDIR: abi.READ_IN.size,
    Opcode.READDIRPLUS: abi.READ_IN.size,
    Opcode.GETXATTR: abi.GETXATTR_IN.size + 1,
    Opcode.LISTXATTR: abi.GETXATTR_IN.size,
    Opcode.ACCESS: abi.ACCESS_IN.size,
    Opcode.LSEEK: abi.LSEEK_IN.size,
}


@pytest.fixture
def rig(plain: BuiltImage) -> Iterator[Rig]:
    with Rig(plain) as rig:
        yield rig


@pytest.fixture
def client(rig: Rig) -> FuseClient:
    return rig.client()


def error_of(client: FuseClient, opcode: int, body: bytes = b"", *, nodeid: int = 1, room: int = 4096) -> int:
    """The errno of the reply; 0 for success."""
    try:
        client.call(opcode, nodeid, body, reply_size=room)
    except OSError as error:
        return error.errno or 0
    return 0


def one_reply_each(rig: Rig, client: FuseClient) -> None:
    """No chain is out, and as many came back as went."""
    counted = rig.device.statistics()
    assert counted["requests"] == counted["replies"]
    assert client.in_flight == client.driver.in_flight == 0
    assert client.driver.used_idx == client.driver.next_used == client.driver.next_avail


def test_init_negotiates(rig: Rig) -> None:
    client = rig.client(init=False)
    reply = client.init()
    assert (reply.major, reply.minor, reply.max_readahead) == (7, 38, 1 << 20)
    assert reply.flags == INIT_FLAGS and reply.flags2 == 0
    assert (reply.max_pages, reply.max_write, reply.time_gran) == (256, 1 << 20, 1)
    assert reply.max_background >= reply.congestion_threshold > 0


@pytest.mark.parametrize("asked", [0, InitFlag.MAX_PAGES, InitFlag.NO_OPEN_SUPPORT, 0xFFFF_FFFF])
def test_no_flag_that_was_not_asked_for(rig: Rig, asked: int) -> None:
    reply = rig.client(init=False).init(flags=asked)
    assert reply.flags & ~asked == 0
    assert reply.max_pages == (256 if asked & InitFlag.MAX_PAGES else 0)
    # no locks, O_TRUNC, write-back or DAX: nothing that an image cannot keep or nobody answers
    for bit in (
        1 << 1,
        1 << 2,
        1 << 3,
        1 << 10,
        1 << 11,
        1 << 16,
        1 << 26,
    ):  # locks, O_TRUNC, write-back, DAX
        assert not reply.flags & bit


@pytest.mark.parametrize(("minor", "answer"), [(31, 31), (38, 38), (39, 39), (40, 39), (1000, 39)])
def test_the_older_of_two_minors(rig: Rig, minor: int, answer: int) -> None:
    client = rig.client(init=False)
    assert client.init(minor=minor).minor == answer
    assert client.getattr(1).nlink == 3


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (7, 0), (6, 99), (0, 0)])
def test_drivers_that_are_too_old(rig: Rig, major: int, minor: int) -> None:
    client = rig.client(init=False)
    with pytest.raises(OSError) as caught:
        client.init(major=major, minor=minor)
    assert caught.value.errno == errno.EPROTO
    assert error_of(client, Opcode.GETATTR, bytes(16)) == errno.EIO  # there is no session
    client.init()
    assert client.getattr(1).nlink == 3


def test_a_newer_major_is_told_ours_and_asks_again(rig: Rig) -> None:
    client = rig.client(init=False)
    reply = client.init(major=8, minor=1)
    assert (reply.major, reply.minor) == (7, 39)
    assert error_of(client, Opcode.GETATTR, bytes(16)) == errno.EIO
    client.init()
    assert client.getattr(1).nlink == 3


def test_init_in_its_form_before_7_36(rig: Rig) -> None:
    client = rig.client(init=False)
    client.call(Opcode.INIT, 0, abi.INIT_IN.pack(7, 31, 4096, 0, 0)[:16], reply_size=abi.INIT_OUT.size)
    assert client.getattr(1).nlink == 3


def test_nothing_before_init(rig: Rig) -> None:
    client = rig.client(init=False)
    for opcode, size in ARGUMENTS.items():
        if opcode is not Opcode.INIT:
            assert error_of(client, opcode, bytes(size)) == errno.EIO
    client.forget(1)
    one_reply_each(rig, client)


def test_a_second_init_starts_anew(client: FuseClient) -> None:
    assert error_of(client, Opcode.OPEN, abi.OPEN_IN.pack(os.O_RDONLY, 0)) == errno.ENOSYS
    client.init(flags=0)
    assert error_of(client, Opcode.OPENDIR, abi.OPEN_IN.pack(os.O_RDONLY, 0)) == 0
    client.init()
    assert error_of(client, Opcode.OPENDIR, abi.OPEN_IN.pack(os.O_RDONLY, 0)) == errno.ENOSYS


def test_destroy_then_init(client: FuseClient, big: bytes) -> None:
    entry = client.lookup(1, b"big")
    client.destroy()
    assert error_of(client, Opcode.LOOKUP, b"big\0") == errno.EIO
    assert error_of(client, Opcode.DESTROY) == errno.EIO
    client.init()
    assert client.read(entry.nodeid, 5, 100) == big[5:105]


def test_a_driver_that_opens(client: FuseClient, big: bytes) -> None:
    client.init(flags=0)
    entry = client.lookup(1, b"big")
    fh, flags = client.open(entry.nodeid)
    assert flags == 1 << 1  # FOPEN_KEEP_CACHE
    assert client.read(entry.nodeid, 0, 10, fh=fh) == big[:10]
    payload = client.call(Opcode.OPENDIR, 1, abi.OPEN_IN.pack(os.O_DIRECTORY, 0), reply_size=16)
    assert abi.OPEN_OUT.unpack(payload)[1] == 1 << 1 | 1 << 3  # and FOPEN_CACHE_DIR
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT):
        assert error_of(client, Opcode.OPEN, abi.OPEN_IN.pack(flags, 0), nodeid=entry.nodeid) == errno.EROFS
    opening = abi.OPEN_IN.pack(os.O_RDONLY, 0)
    assert error_of(client, Opcode.OPEN, opening) == errno.EISDIR
    assert error_of(client, Opcode.OPENDIR, opening, nodeid=entry.nodeid) == errno.ENOTDIR
    client.call(Opcode.RELEASE, entry.nodeid, abi.RELEASE_IN.pack(fh, 0, 0, 0))
    client.call(Opcode.RELEASEDIR, 1, abi.RELEASE_IN.pack(fh, 0, 0, 0))


@pytest.mark.parametrize("opcode", MUTATING)
@pytest.mark.parametrize("size", [0, 1, 64, 5000])
def test_nothing_changes(client: FuseClient, opcode: int, size: int) -> None:
    assert error_of(client, opcode, b"x" * size) == errno.EROFS
    assert error_of(client, opcode, b"x" * size, nodeid=1 << 40) == errno.EROFS


def test_operations_that_have_nothing_to_do(rig: Rig, client: FuseClient) -> None:
    for opcode in NOTHING_TO_DO:
        assert error_of(client, opcode, bytes(24)) == 0
    for opcode in NOT_NEEDED:
        assert error_of(client, opcode, bytes(24)) == errno.ENOSYS
    one_reply_each(rig, client)


@pytest.mark.parametrize("opcode", UNKNOWN)
def test_unknown_operations(client: FuseClient, opcode: int) -> None:
    for size in (0, 8, 100):
        assert error_of(client, opcode, bytes(size)) == errno.ENOSYS


@pytest.mark.parametrize("opcode", ARGUMENTS)
def test_arguments_cut_at_every_byte(rig: Rig, client: FuseClient, opcode: int) -> None:
    for size in range(ARGUMENTS[opcode]):
        assert error_of(client, opcode, bytes(size)) == errno.EINVAL
    one_reply_each(rig, client)
    assert client.getattr(1).nlink == 3


@pytest.mark.parametrize("opcode", [*Opcode, 0, 9999])
def test_reply_buffers_of_every_size(rig: Rig, client: FuseClient, opcode: int) -> None:
    """Used length and header agree (FuseClient checks that) and nothing is written past the room."""
    if opcode in (Opcode.FORGET, Opcode.BATCH_FORGET):
        return
    bodies: dict[int, bytes] = {
        Opcode.INIT: abi.INIT_IN.pack(7, 38, 0, INIT_FLAGS, 0),
        Opcode.LOOKUP: b"big\0",
    }
    body = bodies.get(opcode, abi.READ_IN.pack(0, 0, 300, 0, 0, 0))
    for room in [*range(0, 340, 3), 4096]:
        error_of(client, opcode, body, room=room)
        if opcode == Opcode.DESTROY:
            client.init()
    one_reply_each(rig, client)


@pytest.mark.parametrize("claimed", [0, 1, 39, 57, 100_000, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_header_that_lies_about_its_length(rig: Rig, client: FuseClient, claimed: int) -> None:
    unique = client.submit(Opcode.GETATTR, 1, bytes(16), reply_size=104, header_length=claimed)
    with pytest.raises(OSError) as caught:
        client.wait(unique)
    assert caught.value.errno == errno.EINVAL
    one_reply_each(rig, client)


def test_bytes_behind_the_claimed_length_are_no_arguments(client: FuseClient) -> None:
    unique = client.submit(Opcode.GETATTR, 1, bytes(16), reply_size=104, header_length=40 + 15)
    with pytest.raises(OSError) as caught:
        client.wait(unique)
    assert caught.value.errno == errno.EINVAL
    client.wait(client.submit(Opcode.GETATTR, 1, bytes(999), reply_size=104, header_length=40 + 16))


@pytest.mark.parametrize("name", MALFORMED_REQUESTS)
def test_malformed_requests_come_back_once(rig: Rig, client: FuseClient, name: str) -> None:
    driver = client.driver
    MALFORMED_REQUESTS[name](driver)
    driver.kick()
    used = driver.wait_used()
    assert used.written in (0, abi.OUT_HEADER.size)
    assert driver.maybe_used() is None
    assert client.getattr(1).nlink == 3
    one_reply_each(rig, client)


@pytest.mark.parametrize("size", [0, 1, 15])
def test_no_room_for_even_a_reply_header(rig: Rig, client: FuseClient, size: int) -> None:
    driver, memory = client.driver, client.memory
    request, reply = memory.allocate(4096), memory.allocate(4096)
    memory.write(request, abi.IN_HEADER.pack(56, Opcode.GETATTR, 2, 1, 0, 0, 0, 0, 0) + bytes(16))
    memory.write(reply, b"\xaa" * 64)
    driver.submit([Buffer(request, 56)], [Buffer(reply, size)] if size else [])
    assert driver.wait_used().written == 0
    assert memory.read(reply, 64) == b"\xaa" * 64
    one_reply_each(rig, client)


def test_forgets_have_no_reply_even_with_room_for_one(rig: Rig, client: FuseClient) -> None:
    client.forget(1, 5)
    client.forget(1 << 50)
    client.batch_forget([(1, 1), (2, 2), (1 << 63, 9)])
    client.batch_forget([])
    driver, memory = client.driver, client.memory
    for opcode in (Opcode.FORGET, Opcode.BATCH_FORGET):
        for length in (40, 44, 48):
            request, reply = memory.allocate(64), memory.allocate(64)
            memory.write(request, abi.IN_HEADER.pack(length, opcode, 2, 1, 0, 0, 0, 0, 0) + bytes(8))
            memory.write(reply, b"\xaa" * 64)
            driver.submit([Buffer(request, 48)], [Buffer(reply, 64)])
            assert driver.wait_used().written == 0
            assert memory.read(reply, 64) == b"\xaa" * 64
    one_reply_each(rig, client)


@pytest.mark.parametrize("nodeid", [0, 2, 3, 1 << 20, 1 << 32, 1 << 59, (1 << 64) - 1])
def test_node_ids_that_were_never_given(client: FuseClient, nodeid: int) -> None:
    """Some inode or an error; one reply each, and no harm."""
    for opcode, body in (
        (Opcode.GETATTR, bytes(16)),
        (Opcode.LOOKUP, b"big\0"),
        (Opcode.READ, abi.READ_IN.pack(0, 0, 4096, 0, 0, 0)),
        (Opcode.READDIRPLUS, abi.READ_IN.pack(0, 0, 4096, 0, 0, 0)),
        (Opcode.READLINK, b""),
        (Opcode.LISTXATTR, abi.GETXATTR_IN.pack(100)),
        (Opcode.LSEEK, abi.LSEEK_IN.pack(0, 0, os.SEEK_DATA)),
    ):
        error_of(client, opcode, body, nodeid=nodeid)
    assert client.getattr(1).nlink == 3


def test_names_of_every_length(client: FuseClient) -> None:
    copied = 12 << 10
    for length in [*range(1, 260), 4000, copied - 1, copied, 20_000]:
        expected = 0 if length <= 255 else errno.ENAMETOOLONG
        if length >= copied:
            expected = errno.EINVAL  # its end lies past what is copied
        assert error_of(client, Opcode.LOOKUP, b"n" * length + b"\0") == expected
    assert error_of(client, Opcode.LOOKUP, b"\0") == errno.EINVAL
    assert error_of(client, Opcode.LOOKUP, b"big") == errno.EINVAL
    assert client.lookup(1, b"big\0trailing").attr.size


def test_the_high_priority_queue_answers_too(rig: Rig, client: FuseClient) -> None:
    urgent = rig.client(0, init=False)
    urgent.forget(1)
    assert urgent.getattr(1) == client.getattr(1)
