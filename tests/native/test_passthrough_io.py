"""The data of files: against the host's file, byte by byte."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native.dataplane import CacheMode, DirectoryOptions
from tests.native.share import Share, raises
from virtqueue import fuse_abi as abi
from virtqueue.fuse_abi import Opcode
from virtqueue.fuse_client import cut_to_pieces
from virtqueue.fuse_files import WRITE_CACHE, WRITE_KILL_SUIDGID

Call = Callable[[], object]
LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, ZERO = 1, 2, 16
#: a file system on a disk, and one in memory, which has no RWF_NOWAIT
PLACES = ["disk", "memory"]


@pytest.fixture(params=PLACES)
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path
        return
    top = Path("/dev/shm") / f"vhostfs-{os.getpid()}-{tmp_path.name}"
    top.mkdir()
    yield top
    for path in top.iterdir():
        path.unlink()
    top.rmdir()


@pytest.fixture
def share(folder: Path) -> Iterator[Share]:
    with Share(folder) as made:
        yield made


def content(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


class Opened:
    """A file that is open in the guest, with its path on the host."""

    def __init__(self, share: Share, name: str, data: bytes = b"", flags: int = os.O_RDWR) -> None:
        self.client = share.client
        self.path = share.source / name
        self.path.write_bytes(data)
        self.nodeid = share.client.lookup(share.root, name.encode()).nodeid
        self.fh = share.client.open_file(self.nodeid, flags)

    def read(self, offset: int, size: int) -> bytes:
        return self.client.read(self.nodeid, offset, size, fh=self.fh)

    def write(self, offset: int, data: bytes, write_flags: int = 0) -> int:
        return self.client.write(self.nodeid, self.fh, offset, data, write_flags=write_flags)


def test_reads_of_every_shape(share: Share) -> None:
    data = content(3 << 20)
    file = Opened(share, "file", data, os.O_RDONLY)
    for offset, size in (
        (0, 1),
        (0, 1 << 20),
        (4095, 2),
        (12345, 77777),
        (len(data) - 1, 4096),
        (len(data), 4096),
        (1 << 40, 4096),
        (5, 0),
    ):
        assert file.read(offset, size) == data[offset : offset + size], (offset, size)


def test_a_read_into_scattered_pieces(share: Share) -> None:
    data = content(300_000)
    file = Opened(share, "file", data)
    file.client._cut = cut_to_pieces(4093)
    assert file.read(17, 250_000) == data[17:250_017]


def test_a_read_of_a_cold_file_is_left_to_the_pool(share: Share) -> None:
    data = content(1 << 20)
    file = Opened(share, "file", data)
    os.sync()
    with file.path.open("rb") as host:
        os.posix_fadvise(host.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert file.read(0, 1 << 20) == data
    assert file.read(0, 1 << 20) == data


def test_writes_of_every_shape(share: Share) -> None:
    expected = bytearray()
    file = Opened(share, "file")
    rng = random.Random(7)
    for _ in range(60):
        offset, size = rng.randrange(3 << 20), rng.choice([0, 1, 100, 4096, 65536, 1 << 20])
        data = rng.randbytes(size)
        assert file.write(offset, data) == size
        if size:
            expected.extend(bytes(max(0, offset + size - len(expected))))
            expected[offset : offset + size] = data
    assert file.path.read_bytes() == expected
    assert file.read(100, 1 << 20) == expected[100 : 100 + (1 << 20)]


def test_a_write_from_scattered_pieces(share: Share) -> None:
    data = content(250_000)
    file = Opened(share, "file")
    file.client._cut = cut_to_pieces(4093)
    assert file.write(10, data) == len(data)
    assert file.path.read_bytes() == bytes(10) + data


def test_many_writes_in_flight(share: Share) -> None:
    file = Opened(share, "file")
    pieces = [content(8192, seed) for seed in range(40)]
    sent = [file.client.submit_write(file.nodeid, file.fh, 8192 * i, piece) for i, piece in enumerate(pieces)]
    for unique in sent:
        file.client.wait(unique)
    assert file.path.read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
def test_a_handle_allows_what_it_was_opened_for(share: Share, flags: int) -> None:
    file = Opened(share, "file", b"content", flags)
    if flags == os.O_RDONLY:
        with raises(errno.EBADF):
            file.write(0, b"x")
    else:
        with raises(errno.EBADF):
            file.read(0, 10)
    assert file.path.read_bytes() == b"content"


def test_writes_that_lie_about_their_size(share: Share) -> None:
    file = Opened(share, "file", b"content")
    for size in (5, (1 << 20) + 1, 0xFFFFFFFF):
        body = abi.WRITE_IN.pack(file.fh, 0, size, 0, 0, 0) + b"four"
        with raises(errno.EINVAL):
            file.client.call(Opcode.WRITE, file.nodeid, body, reply_size=abi.WRITE_OUT.size)
    body = abi.WRITE_IN.pack(file.fh, 0, 4, 0, 0, 0) + b"four"
    with raises(errno.EINVAL):  # no room for the reply: nothing may be written
        file.client.call(Opcode.WRITE, file.nodeid, body, reply_size=0)
    for offset in ((1 << 64) - 1, 1 << 63):
        with raises(errno.EINVAL):
            file.write(offset, b"x")
        with raises(errno.EINVAL):
            file.read(offset, 1)
    assert file.path.read_bytes() == b"content"


class TestAppend:
    def test_it_goes_to_the_end_wherever_that_is(self, share: Share) -> None:
        file = Opened(share, "file", b"0123", os.O_WRONLY | os.O_APPEND)
        assert file.write(0, b"ab") == 2
        with file.path.open("ab") as host:
            host.write(b"HOST")
        assert file.write(6, b"cd") == 2
        assert file.path.read_bytes() == b"0123abHOSTcd"

    def test_pages_of_a_mapping_have_their_offset(self, share: Share) -> None:
        """The driver writes them through any handle that can be written."""
        file = Opened(share, "file", b"0123456789", os.O_RDWR | os.O_APPEND)
        assert file.write(2, b"XY", WRITE_CACHE) == 2
        assert file.path.read_bytes() == b"01XY456789"

    def test_a_guest_that_gathers_writes_knows_the_end_itself(self, folder: Path) -> None:
        with Share(folder, DirectoryOptions(writeback=True)) as share:
            file = Opened(share, "file", b"0123456789", os.O_WRONLY | os.O_APPEND)
            assert file.write(2, b"XY") == 2
            assert file.read(0, 100) == b"01XY456789"  # pages that are written in part are read first


class TestSetIdBits:
    @pytest.mark.parametrize("uid", [0, 1000])
    def test_a_write_clears_them_when_told(self, share: Share, uid: int) -> None:
        file = Opened(share, "file", b"program")
        file.path.chmod(0o6755)
        os.setxattr(file.path, "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
        file.client.uid = uid
        file.write(0, b"x")
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o6755
        file.write(0, b"x", WRITE_KILL_SUIDGID)
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o755
        assert "security.capability" not in os.listxattr(file.path)

    @pytest.mark.parametrize(("uid", "left"), [(0, 0o6755), (1000, 0o755)])
    def test_what_has_no_flag_clears_them_for_users(self, share: Share, uid: int, left: int) -> None:
        """A driver that agreed to HANDLE_KILLPRIV_V2 does nothing itself."""
        file, other = Opened(share, "file", b"program"), Opened(share, "other", b"data")
        file.client.uid = uid
        for change in (
            lambda: file.client.fallocate(file.nodeid, file.fh, 0, 100),
            lambda: file.client.copy_file_range(other.nodeid, other.fh, 0, file.nodeid, file.fh, 0, 4),
        ):
            file.path.chmod(0o6755)
            change()
            assert stat.S_IMODE(file.path.stat().st_mode) == left
        file.client.uid = 0
        file.path.chmod(0o6755)
        for _ in range(40):  # and each thread has its right again
            file.client.fallocate(file.nodeid, file.fh, 0, 100)
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o6755

    def test_the_thread_gets_its_right_back(self, share: Share) -> None:
        file = Opened(share, "file", b"program")
        file.path.chmod(0o6755)
        file.write(0, b"x", WRITE_KILL_SUIDGID)
        for _ in range(40):
            file.path.chmod(0o6755)
            file.write(0, b"x")
            assert stat.S_IMODE(file.path.stat().st_mode) == 0o6755


def test_open_truncates_when_asked(share: Share) -> None:
    file = Opened(share, "file", b"content")
    again = share.client.open_file(file.nodeid, os.O_RDWR | os.O_TRUNC)
    assert file.path.read_bytes() == b""
    share.client.release(file.nodeid, again)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_what_is_no_file_is_never_opened(share: Share, kind: int) -> None:
    os.mknod(share.source / "special", kind | 0o666, os.makedev(1, 3))
    entry = share.client.lookup(share.root, b"special")
    calls: list[Call] = [
        lambda: share.client.open_file(entry.nodeid, os.O_RDWR),
        lambda: share.client.open_file(entry.nodeid, os.O_RDONLY | os.O_TRUNC),
    ]
    for call in calls:
        with raises(errno.ENXIO):
            call()
    with raises(errno.ENOTDIR):
        share.client.opendir(entry.nodeid)


def test_a_symlink_and_a_directory_are_not_opened_as_files(share: Share, tmp_path: Path) -> None:
    (share.source / "link").symlink_to("/etc/passwd")
    link = share.client.lookup(share.root, b"link")
    with raises(errno.ELOOP):
        share.client.open_file(link.nodeid)
    with raises(errno.EISDIR):
        share.client.open_file(share.root)


def test_flags_of_the_host_are_not_the_guests_to_choose(share: Share) -> None:
    file = Opened(share, "file", b"content")
    fh = share.client.open_file(
        file.nodeid, os.O_RDWR | os.O_DIRECT | os.O_PATH | os.O_CREAT | os.O_DIRECTORY
    )
    assert share.client.read(file.nodeid, 3, 2, fh=fh) == b"te"  # no alignment


def test_cache_modes_are_told_at_open(folder: Path) -> None:
    for mode, expected in ((CacheMode.AUTO, 0), (CacheMode.NEVER, 1), (CacheMode.ALWAYS, 2)):
        with Share(folder, DirectoryOptions(cache=mode)) as share:
            (share.source / "file").touch()
            entry = share.client.lookup(share.root, b"file")
            assert share.client.open(entry.nodeid)[1] & 3 == expected


def test_flush_fsync_and_syncfs(share: Share) -> None:
    file = Opened(share, "file")
    file.write(0, b"data")
    file.client.flush(file.nodeid, file.fh)
    file.client.fsync(file.nodeid, file.fh)
    file.client.fsync(file.nodeid, file.fh, data_only=True)
    directory = file.client.opendir(share.root)
    file.client.fsync(share.root, directory, directory=True)
    file.client.syncfs(share.root)
    calls: list[Call] = [
        lambda: file.client.flush(file.nodeid, 77),
        lambda: file.client.fsync(file.nodeid, 77),
        lambda: file.client.fsync(file.nodeid, directory),  # of another inode
    ]
    for call in calls:
        with raises(errno.EBADF):
            call()


def test_syncfs_of_all_that_is_mounted(folder: Path) -> None:
    with Share(folder, path="/a/b") as share:
        share.client.syncfs()  # the root is a pseudo directory


@pytest.mark.parametrize(
    ("mode", "offset", "length"),
    [(0, 0, 100_000), (KEEP_SIZE, 0, 500_000), (KEEP_SIZE | PUNCH_HOLE, 4096, 8192)],
)
def test_fallocate_does_what_the_host_does(share: Share, mode: int, offset: int, length: int) -> None:
    data = content(50_000)
    file, oracle = Opened(share, "file", data), share.source / "oracle"
    oracle.write_bytes(data)
    file.client.fallocate(file.nodeid, file.fh, offset, length, mode)
    with oracle.open("r+b") as host:
        assert LIBC.fallocate(host.fileno(), mode, ctypes.c_long(offset), ctypes.c_long(length)) == 0
    assert file.path.read_bytes() == oracle.read_bytes()
    assert (file.path.stat().st_size, file.path.stat().st_blocks) == (
        oracle.stat().st_size,
        oracle.stat().st_blocks,
    )


def test_fallocate_of_nonsense(share: Share) -> None:
    file = Opened(share, "file", b"content")
    for mode, offset, length in (
        (0, 0, 0),
        (0, 1 << 63, 1),
        (0, 0, 1 << 63),
        (1 << 31, 0, 1),
        (PUNCH_HOLE, 0, 1),
    ):
        with raises(errno.EOPNOTSUPP if mode == PUNCH_HOLE else errno.EINVAL):
            file.client.fallocate(file.nodeid, file.fh, offset, length, mode)


def test_lseek_finds_data_and_holes(share: Share) -> None:
    file = Opened(share, "file")
    os.truncate(file.path, 4 << 20)
    file.write(1 << 20, content(8192))
    with file.path.open("rb") as host:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (0, 1 << 20, (1 << 20) + 5000, 2 << 20):
                try:
                    expected = os.lseek(host.fileno(), offset, whence)
                except OSError as error:
                    with raises(error.errno or 0):
                        file.client.lseek(file.nodeid, offset, whence, fh=file.fh)
                else:
                    assert file.client.lseek(file.nodeid, offset, whence, fh=file.fh) == expected
    for offset, whence in ((0, os.SEEK_SET), (0, os.SEEK_END), (0, 99), (1 << 63, os.SEEK_DATA)):
        with raises(errno.EINVAL):
            file.client.lseek(file.nodeid, offset, whence, fh=file.fh)


def test_copy_file_range(share: Share) -> None:
    data = content(1 << 20)
    one, two = Opened(share, "one", data), Opened(share, "two", bytes(100))
    assert one.client.copy_file_range(one.nodeid, one.fh, 1000, two.nodeid, two.fh, 50, 300_000) == 300_000
    assert two.path.read_bytes() == bytes(50) + data[1000:301_000]
    assert one.client.copy_file_range(one.nodeid, one.fh, len(data), two.nodeid, two.fh, 0, 10) == 0
    calls: list[tuple[Call, int]] = [
        (lambda: one.client.copy_file_range(one.nodeid, one.fh, 0, two.nodeid, one.fh, 0, 1), errno.EBADF),
        (lambda: one.client.copy_file_range(one.nodeid, 5, 0, two.nodeid, two.fh, 0, 1), errno.EBADF),
        (lambda: one.client.copy_file_range(one.nodeid, one.fh, 0, 1 << 50, two.fh, 0, 1), errno.EXDEV),
        (lambda: one.client.copy_file_range(one.nodeid, one.fh, 0, 64 * 999, two.fh, 0, 1), errno.ESTALE),
        (
            lambda: one.client.copy_file_range(one.nodeid, one.fh, 1 << 63, two.nodeid, two.fh, 0, 1),
            errno.EINVAL,
        ),
    ]
    for call, code in calls:
        with raises(code):
            call()


def test_ioctl_is_for_terminals(share: Share) -> None:
    file = Opened(share, "file")
    with raises(errno.ENOTTY):
        file.client.call(Opcode.IOCTL, file.nodeid, abi.IOCTL_IN.pack(file.fh, 0, 0x5401, 0, 0, 0))


@pytest.mark.parametrize("opcode", [Opcode.BMAP, Opcode.POLL, Opcode.SETUPMAPPING, Opcode.REMOVEMAPPING])
def test_what_no_mount_can_do(share: Share, opcode: Opcode) -> None:
    with raises(errno.ENOSYS):
        share.client.call(opcode, share.root, bytes(48))
