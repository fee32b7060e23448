"""Names and attributes of a shared directory, beside what the host itself says."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.share import Share, pack_rdev, raises, same_attr
from virtqueue import fuse_abi as abi
from virtqueue.fuse_abi import Opcode, SetAttr


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    folder = tmp_path / "source"
    (folder / "dir" / "below").mkdir(parents=True)
    (folder / "file").write_bytes(b"content of the file")
    (folder / "file").chmod(0o4711)
    os.utime(folder / "file", ns=(1_000_000_001, -5_000_000_003))
    (folder / "empty").touch()
    (folder / "link").symlink_to("dir/below")
    (folder / "long").symlink_to("x" * 4000)
    os.link(folder / "empty", folder / "twin")
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "big", stat.S_IFBLK | 0o600, os.makedev(0xFFF, 0xABCDE))
    os.mknod(folder / "whiteout", stat.S_IFCHR, 0)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
    os.chown(folder / "dir", 1234, 5678)
    with Share(folder) as made:
        yield made


ENTRIES = ["file", "empty", "twin", "dir", "link", "long", "fifo", "null", "big", "whiteout", "socket"]


@pytest.mark.parametrize("name", ENTRIES)
def test_lookup_and_getattr_say_what_the_host_says(share: Share, name: str) -> None:
    entry = share.client.lookup(share.root, name.encode())
    same_attr(entry.attr, share.source / name)
    same_attr(share.client.getattr(entry.nodeid), share.source / name)


@pytest.mark.parametrize("name", ENTRIES)
def test_statx_has_the_birth_time_too(share: Share, name: str) -> None:
    entry = share.client.lookup(share.root, name.encode())
    body = abi.STATX_IN.pack(0, 0, 0, 0xFFF)
    out = share.client.call(Opcode.STATX, entry.nodeid, body, reply_size=288)
    mask, _, _, nlink, uid, gid, mode, ino, size, blocks = struct.unpack_from("<IIQIIIH2xQQQ", out, 32)
    seen = share.source / name
    expected = seen.lstat()
    assert mask & 0xFFF == 0xFFF
    assert (nlink, uid, gid, mode) == (expected.st_nlink, expected.st_uid, expected.st_gid, expected.st_mode)
    assert (size, blocks) == (expected.st_size, expected.st_blocks)
    assert ino == entry.attr.ino
    times = [struct.unpack_from("<qI", out, 32 + 64 + 16 * index) for index in range(4)]  # a, b, c, m
    assert times[0][0] * 10**9 + times[0][1] == expected.st_atime_ns
    assert times[2][0] * 10**9 + times[2][1] == expected.st_ctime_ns
    assert times[3][0] * 10**9 + times[3][1] == expected.st_mtime_ns
    assert times[1][0] > 1_600_000_000  # Python has no birth time to compare with
    rdev = struct.unpack_from("<II", out, 32 + 128)
    assert rdev == (os.major(expected.st_rdev), os.minor(expected.st_rdev))


def test_device_numbers_beyond_eight_bits_survive(share: Share) -> None:
    assert share.client.lookup(share.root, b"big").attr.rdev == pack_rdev(os.makedev(0xFFF, 0xABCDE))


def test_links_are_one_inode_and_files_are_many(share: Share) -> None:
    by_name = {name: share.client.lookup(share.root, name.encode()) for name in ENTRIES}
    assert by_name["empty"].nodeid == by_name["twin"].nodeid
    assert len({entry.nodeid for entry in by_name.values()}) == len(ENTRIES) - 1
    assert len({entry.attr.ino for entry in by_name.values()}) == len(ENTRIES) - 1
    assert share.facts().inodes == len(ENTRIES) - 1


def test_forget_counts_look_ups(share: Share) -> None:
    first = share.client.lookup(share.root, b"file")
    assert share.client.lookup(share.root, b"file").nodeid == first.nodeid
    share.client.forget(first.nodeid, 1)
    same_attr(share.client.getattr(first.nodeid), share.source / "file")
    share.client.forget(first.nodeid, 7)  # more than there were: all are
    with raises(errno.ESTALE):
        share.client.getattr(first.nodeid)
    assert share.client.lookup(share.root, b"file").nodeid != first.nodeid


def test_batch_forget_of_what_is_known_and_what_is_not(share: Share) -> None:
    nodes = [share.client.lookup(share.root, name.encode()).nodeid for name in ENTRIES]
    share.client.batch_forget([(node, 1) for node in nodes] + [(12345 << 6, 1), (share.root, 10), (0, 1)])
    assert share.facts().inodes == 0
    same_attr(share.client.getattr(share.root), share.source)


def test_what_the_host_changes_is_seen(share: Share) -> None:
    entry = share.client.lookup(share.root, b"file")
    (share.source / "file").write_bytes(b"longer than it was before, by the host")
    same_attr(share.client.getattr(entry.nodeid), share.source / "file")
    (share.source / "file").rename(share.source / "dir" / "moved")
    same_attr(share.client.getattr(entry.nodeid), share.source / "dir" / "moved")
    with raises(errno.ENOENT):
        share.client.lookup(share.root, b"file")


def test_a_file_in_place_of_a_deleted_one_is_another_inode(share: Share) -> None:
    entry = share.client.lookup(share.root, b"file")
    (share.source / "file").unlink()
    (share.source / "file").write_bytes(b"new")
    again = share.client.lookup(share.root, b"file")
    assert again.nodeid != entry.nodeid
    with raises(errno.ESTALE):
        share.client.getattr(entry.nodeid)


def test_readlink(share: Share) -> None:
    for name, target in (("link", b"dir/below"), ("long", b"x" * 4000)):
        assert share.client.readlink(share.client.lookup(share.root, name.encode()).nodeid) == target
    with raises(errno.EINVAL):
        share.client.readlink(share.client.lookup(share.root, b"file").nodeid)
    long = share.client.lookup(share.root, b"long")
    with raises(errno.ENAMETOOLONG):
        share.client.call(Opcode.READLINK, long.nodeid, reply_size=100)


def test_statfs(share: Share) -> None:
    expected = os.statvfs(share.source)
    blocks, _, _, files, _, bsize, namelen, frsize = share.client.statfs(share.root)
    assert (blocks, files, bsize, namelen, frsize) == (
        expected.f_blocks,
        expected.f_files,
        expected.f_bsize,
        expected.f_namemax,
        expected.f_frsize,
    )


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "mask", "allowed"),
    [
        (0o640, 0, 0, os.R_OK | os.W_OK, True),
        (0o640, 1000, 1000, os.R_OK, False),
        (0o640, 1000, 0, os.R_OK, True),
        (0o640, 1000, 0, os.W_OK, False),
        (0o604, 1000, 1000, os.R_OK, True),
        (0o604, 1000, 1000, os.X_OK, False),
    ],
)
def test_access(share: Share, mode: int, uid: int, gid: int, mask: int, allowed: bool) -> None:
    (share.source / "empty").chmod(mode)
    entry = share.client.lookup(share.root, b"empty")
    share.client.uid, share.client.gid = uid, gid
    assert share.client.access(entry.nodeid, mask) is allowed


class TestSetattr:
    def nodeid(self, share: Share, name: str = "file") -> int:
        return share.client.lookup(share.root, name.encode()).nodeid

    @pytest.mark.parametrize("name", ["file", "dir", "fifo", "null", "whiteout", "socket"])
    def test_mode(self, share: Share, name: str) -> None:
        attr = share.client.setattr(self.nodeid(share, name), SetAttr.MODE, mode=0o7531)
        same_attr(attr, share.source / name)
        assert stat.S_IMODE((share.source / name).stat().st_mode) == 0o7531

    def test_a_symlink_has_no_mode_to_set(self, share: Share) -> None:
        with raises(errno.EOPNOTSUPP):
            share.client.setattr(self.nodeid(share, "link"), SetAttr.MODE, mode=0o600)

    @pytest.mark.parametrize("name", ENTRIES)
    def test_owner_of_the_thing_itself(self, share: Share, name: str) -> None:
        attr = share.client.setattr(self.nodeid(share, name), SetAttr.UID | SetAttr.GID, uid=4321, gid=8765)
        same_attr(attr, share.source / name)
        assert (attr.uid, attr.gid) == (4321, 8765)

    def test_owner_or_group_alone(self, share: Share) -> None:
        assert share.client.setattr(self.nodeid(share, "dir"), SetAttr.UID, uid=1, gid=9).gid == 5678
        assert share.client.setattr(self.nodeid(share, "dir"), SetAttr.GID, uid=9, gid=2).uid == 1

    def test_a_new_owner_takes_the_set_id_bits(self, share: Share) -> None:
        attr = share.client.setattr(self.nodeid(share), SetAttr.UID, uid=7)
        assert stat.S_IMODE(attr.mode) == 0o711

    def test_owner_and_mode_at_once_keep_the_mode(self, share: Share) -> None:
        attr = share.client.setattr(self.nodeid(share), SetAttr.UID | SetAttr.MODE, uid=7, mode=0o4700)
        assert stat.S_IMODE(attr.mode) == 0o4700

    @pytest.mark.parametrize("with_handle", [False, True])
    def test_size(self, share: Share, with_handle: bool) -> None:
        nodeid = self.nodeid(share)
        fh = share.client.open_file(nodeid, os.O_RDWR) if with_handle else None
        for size in (7, 0, 100_000):
            same_attr(share.client.truncate(nodeid, size, fh=fh), share.source / "file")
            assert (share.source / "file").stat().st_size == size
        assert (share.source / "file").read_bytes() == bytes(100_000)

    def test_size_of_what_has_none(self, share: Share) -> None:
        for name, code in (("dir", errno.EISDIR), ("fifo", errno.EINVAL), ("null", errno.EINVAL)):
            with raises(code):
                share.client.truncate(self.nodeid(share, name), 0)
        with raises(errno.EFBIG):
            share.client.truncate(self.nodeid(share), 1 << 63)

    def test_size_kills_set_id_bits_when_told(self, share: Share) -> None:
        nodeid = self.nodeid(share)
        (share.source / "file").chmod(0o6775)
        assert stat.S_IMODE(share.client.truncate(nodeid, 5).mode) == 0o6775
        attr = share.client.setattr(nodeid, SetAttr.SIZE | SetAttr.KILL_SUIDGID, size=4)
        assert stat.S_IMODE(attr.mode) == 0o775

    @pytest.mark.parametrize("name", ENTRIES)
    def test_times_of_the_thing_itself(self, share: Share, name: str) -> None:
        attr = share.client.setattr(
            self.nodeid(share, name),
            SetAttr.ATIME | SetAttr.MTIME,
            atime=12345,
            atimensec=999_999_999,
            mtime=(1 << 64) - 77,
            mtimensec=1,
        )
        expected = (share.source / name).lstat()
        assert (expected.st_atime_ns, expected.st_mtime_ns) == (12345_999_999_999, -77 * 10**9 + 1)
        same_attr(attr, share.source / name)

    def test_times_of_now_and_of_before(self, share: Share) -> None:
        before = (share.source / "file").stat()
        attr = share.client.setattr(self.nodeid(share), SetAttr.MTIME | SetAttr.MTIME_NOW, mtime=5)
        assert attr.mtime * 10**9 + attr.mtimensec > before.st_ctime_ns - 1_000_000_000
        assert attr.atime * 10**9 + attr.atimensec == before.st_atime_ns

    @pytest.mark.parametrize("nsec", [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2])
    def test_nanoseconds_that_are_none(self, share: Share, nsec: int) -> None:
        with raises(errno.EINVAL):
            share.client.setattr(self.nodeid(share), SetAttr.ATIME, atimensec=nsec)

    def test_nothing_to_set_is_a_getattr(self, share: Share) -> None:
        same_attr(share.client.setattr(self.nodeid(share), 0), share.source / "file")

    def test_a_handle_that_is_none(self, share: Share) -> None:
        with raises(errno.EBADF):
            share.client.truncate(self.nodeid(share), 0, fh=99)
        assert (share.source / "file").stat().st_size > 0


def test_inode_numbers_of_lookup_and_readdir_agree(share: Share) -> None:
    """What READDIR says of an entry is what LOOKUP says."""
    listed = {dirent.name: dirent.ino for dirent in share.client.list_dir(share.root, plus=False)}
    for name in ENTRIES:
        assert share.client.lookup(share.root, name.encode()).attr.ino == listed[name.encode()]
    assert listed[b"."] == share.client.getattr(share.root).ino
    assert listed[b".."] == listed[b"."]  # the number of what is above is not the guest's business
