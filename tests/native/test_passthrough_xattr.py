"""Extended attributes, ACLs and locks, beside the host."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.dataplane import DirectoryOptions, FileHandles
from tests.native.host_mounts import clean_mounts, mount
from tests.native.share import Share, error_of, raises
from virtqueue import fuse_abi as abi
from virtqueue.fuse_abi import InitFlag, Opcode
from virtqueue.fuse_files import LINUX_FLAGS

CAPABILITY = bytes.fromhex("0100000200040000" + "00" * 12)
KINDS = ["file", "dir", "link", "fifo", "null", "whiteout", "socket"]
ACL_KILL_SGID = 1


def make(folder: Path) -> None:
    folder.mkdir()
    (folder / "file").touch()
    (folder / "dir").mkdir()
    (folder / "link").symlink_to("file")
    os.mkfifo(folder / "fifo")
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "whiteout", stat.S_IFCHR)
    os.mknod(folder / "socket", stat.S_IFSOCK)


@pytest.fixture(params=[FileHandles.PREFER, FileHandles.NEVER], ids=["handles", "descriptors"])
def share(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Share]:
    make(tmp_path / "source")
    with Share(tmp_path / "source", DirectoryOptions(file_handles=request.param, locks=True)) as made:
        yield made


def nodeid_of(share: Share, name: str) -> int:
    return share.client.lookup(share.root, name.encode()).nodeid


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("attribute", ["trusted.overlay.opaque", "trusted.overlay.origin", "security.test"])
def test_attributes_of_everything(share: Share, name: str, attribute: str) -> None:
    nodeid, path = nodeid_of(share, name), share.source / name
    share.client.setxattr(nodeid, attribute.encode(), b"value \0 of it")
    assert os.getxattr(path, attribute, follow_symlinks=False) == b"value \0 of it"
    os.setxattr(path, attribute, b"another", follow_symlinks=False)
    assert share.client.getxattr(nodeid, attribute.encode()) == b"another"
    assert share.client.listxattr(nodeid) == [
        os.fsencode(n) for n in os.listxattr(path, follow_symlinks=False)
    ]
    share.client.removexattr(nodeid, attribute.encode())
    assert os.listxattr(path, follow_symlinks=False) == []
    with raises(errno.ENODATA):
        share.client.getxattr(nodeid, attribute.encode())
    with raises(errno.ENODATA):
        share.client.removexattr(nodeid, attribute.encode())


@pytest.mark.parametrize("name", KINDS)
def test_user_attributes_where_the_host_has_them(share: Share, name: str) -> None:
    nodeid = nodeid_of(share, name)
    if name in ("file", "dir"):
        share.client.setxattr(nodeid, b"user.x", b"y")
        assert os.getxattr(share.source / name, "user.x") == b"y"
    else:
        with raises(errno.EPERM):
            share.client.setxattr(nodeid, b"user.x", b"y")


def test_create_and_replace(share: Share) -> None:
    nodeid = nodeid_of(share, "file")
    with raises(errno.ENODATA):
        share.client.setxattr(nodeid, b"user.x", b"1", os.XATTR_REPLACE)
    share.client.setxattr(nodeid, b"user.x", b"1", os.XATTR_CREATE)
    with raises(errno.EEXIST):
        share.client.setxattr(nodeid, b"user.x", b"2", os.XATTR_CREATE)
    share.client.setxattr(nodeid, b"user.x", b"3", os.XATTR_REPLACE)
    assert os.getxattr(share.source / "file", "user.x") == b"3"
    with raises(errno.EINVAL):
        share.client.setxattr(nodeid, b"user.x", b"4", 8)


def test_sizes(share: Share) -> None:
    nodeid = nodeid_of(share, "file")
    value = bytes(range(256)) * 12
    share.client.setxattr(nodeid, b"user.big", value)
    share.client.setxattr(nodeid, b"user.empty", b"")
    out = share.client.call(Opcode.GETXATTR, nodeid, abi.GETXATTR_IN.pack(0) + b"user.big\0", reply_size=8)
    assert abi.GETXATTR_OUT.unpack(out) == (len(value),)
    out = share.client.call(Opcode.LISTXATTR, nodeid, abi.GETXATTR_IN.pack(0), reply_size=8)
    assert abi.GETXATTR_OUT.unpack(out) == (len(b"user.big\0user.empty\0"),)
    assert share.client.getxattr(nodeid, b"user.big", len(value)) == value
    assert share.client.getxattr(nodeid, b"user.empty") == b""
    with raises(errno.ERANGE):
        share.client.getxattr(nodeid, b"user.big", len(value) - 1)
    with raises(errno.ERANGE):
        share.client.listxattr(nodeid, 10)
    for _ in range(3):  # once more from the queue's own thread
        assert share.client.getxattr(nodeid, b"user.big") == value


def test_a_value_beyond_what_is_copied_of_a_request(tmp_path: Path) -> None:
    """Up to 64 KiB: more than the arguments that a queue copies. ext4 has no room for it, memory has."""
    folder = Path("/dev/shm") / f"vhostfs-{os.getpid()}-xattr"
    folder.mkdir()
    try:
        with Share(folder) as share:
            value = os.urandom(65536)
            share.client.setxattr(share.root, b"trusted.big", value)
            assert os.getxattr(folder, "trusted.big") == value
            assert share.client.getxattr(share.root, b"trusted.big", 65536) == value
            with raises(errno.E2BIG):
                share.client.setxattr(share.root, b"trusted.big", bytes(65537))
    finally:
        folder.rmdir()


def test_names_and_sizes_that_lie(share: Share) -> None:
    nodeid = nodeid_of(share, "file")
    with raises(errno.EINVAL):
        share.client.setxattr(nodeid, b"", b"x")
    with raises(errno.ERANGE):
        share.client.setxattr(nodeid, b"user." + b"n" * 300, b"x")
    with raises(errno.EOPNOTSUPP):
        share.client.setxattr(nodeid, b"nonsense", b"x")
    for size in (3, 65536):
        with raises(errno.EINVAL):
            body = abi.SETXATTR_IN.pack(size, 0, 0) + b"user.x\0" + b"ab"
            share.client.call(Opcode.SETXATTR, nodeid, body)
    assert os.listxattr(share.source / "file") == []


def test_the_short_form_of_older_drivers(tmp_path: Path) -> None:
    make(tmp_path / "source")
    with Share(tmp_path / "source", flags=LINUX_FLAGS & ~InitFlag.SETXATTR_EXT) as share:
        share.client.setxattr(nodeid_of(share, "file"), b"user.x", b"value")
        assert os.getxattr(share.source / "file", "user.x") == b"value"


def test_capabilities_survive_a_copy_up(share: Share) -> None:
    share.client.setxattr(nodeid_of(share, "file"), b"security.capability", CAPABILITY)
    assert os.getxattr(share.source / "file", "security.capability") == CAPABILITY
    assert share.client.getxattr(nodeid_of(share, "file"), b"security.capability") == CAPABILITY


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


#: owner rw, user 1000 r, group r, mask r, others nothing
NAMED = acl((1, 6, -1), (2, 4, 1000), (4, 4, -1), (16, 4, -1), (32, 0, -1))


class TestAcl:
    def test_access_and_default(self, share: Share) -> None:
        for name, attribute in (("file", "access"), ("dir", "access"), ("dir", "default")):
            nodeid = nodeid_of(share, name)
            share.client.setxattr(nodeid, f"system.posix_acl_{attribute}".encode(), NAMED)
            assert os.getxattr(share.source / name, f"system.posix_acl_{attribute}") == NAMED
            assert share.client.getxattr(nodeid, f"system.posix_acl_{attribute}".encode()) == NAMED
        assert stat.S_IMODE(share.client.getattr(nodeid_of(share, "file")).mode) == 0o640

    def test_the_host_checks_them(self, share: Share) -> None:
        nodeid = nodeid_of(share, "file")
        share.client.setxattr(nodeid, b"system.posix_acl_access", NAMED)
        share.client.uid = share.client.gid = 1000
        assert share.client.access(nodeid, os.R_OK)
        share.client.uid = share.client.gid = 1001
        assert not share.client.access(nodeid, os.R_OK)

    def test_where_the_host_has_none_there_are_none(self, share: Share, tmp_path: Path) -> None:
        """A guest that enforces ACLs would refuse everything if it heard that it cannot be told."""
        with clean_mounts(tmp_path):
            mount("ramfs", share.source / "dir", "ramfs")
            (share.source / "dir" / "file").touch()
            nodeid = share.client.lookup(nodeid_of(share, "dir"), b"file").nodeid
            for attribute in (b"system.posix_acl_access", b"system.posix_acl_default"):
                with raises(errno.ENODATA):
                    share.client.getxattr(nodeid, attribute)
                with raises(errno.EOPNOTSUPP):
                    share.client.setxattr(nodeid, attribute, NAMED)
            with raises(errno.EOPNOTSUPP):
                share.client.getxattr(nodeid, b"user.test")

    @pytest.mark.parametrize(("flag", "mode"), [(0, 0o2750), (ACL_KILL_SGID, 0o750)])
    def test_set_group_id_goes_when_told(self, share: Share, flag: int, mode: int) -> None:
        os.chown(share.source / "file", 1000, 2000)
        (share.source / "file").chmod(0o2750)
        share.client.uid = share.client.gid = 1000
        plain = acl((1, 7, -1), (4, 5, -1), (32, 0, -1))
        share.client.setxattr(
            nodeid_of(share, "file"), b"system.posix_acl_access", plain, setxattr_flags=flag
        )
        assert stat.S_IMODE((share.source / "file").stat().st_mode) == mode

    @pytest.mark.parametrize(
        "value",
        [b"nonsense", struct.pack("<I", 2), acl((1, 7, -1)), acl((1, 7, -1), (4, 5, -1), (32, 9, -1))],
    )
    def test_nonsense_is_refused_as_the_host_does(self, share: Share, value: bytes) -> None:
        path, name = share.source / "file", "system.posix_acl_access"
        expected = error_of(lambda: os.setxattr(path, name, value))
        nodeid = nodeid_of(share, "file")
        assert error_of(lambda: share.client.setxattr(nodeid, name.encode(), value)) == expected


class TestLocks:
    """Two owners in the guest, and the host as a third."""

    def opened(self, share: Share) -> tuple[int, int]:
        nodeid = nodeid_of(share, "file")
        return nodeid, share.client.open_file(nodeid, os.O_RDWR)

    def test_ranges_of_two_owners(self, share: Share) -> None:
        nodeid, fh = self.opened(share)
        client = share.client
        client.setlk(nodeid, fh, 1, fcntl.F_WRLCK, 10, 19)
        with raises(errno.EAGAIN):
            client.setlk(nodeid, fh, 2, fcntl.F_RDLCK, 19, 30)
        client.setlk(nodeid, fh, 2, fcntl.F_RDLCK, 20, 30)
        found = client.getlk(nodeid, fh, 2, fcntl.F_WRLCK, 0, 15)
        assert found[:3] == (10, 19, fcntl.F_WRLCK)
        assert client.getlk(nodeid, fh, 1, fcntl.F_WRLCK, 0, 15).type == fcntl.F_UNLCK
        client.setlk(nodeid, fh, 1, fcntl.F_UNLCK, 15, 19)
        client.setlk(nodeid, fh, 2, fcntl.F_WRLCK, 15, 19)
        with raises(errno.EAGAIN):
            client.setlk(nodeid, fh, 2, fcntl.F_WRLCK, 14, 14)

    def test_nobody_waits(self, share: Share) -> None:
        nodeid, fh = self.opened(share)
        share.client.setlk(nodeid, fh, 1, fcntl.F_WRLCK)
        with raises(errno.EOPNOTSUPP):
            share.client.setlk(nodeid, fh, 2, fcntl.F_WRLCK, wait=True)
        share.client.setlk(nodeid, fh, 1, fcntl.F_UNLCK)
        share.client.setlk(nodeid, fh, 2, fcntl.F_WRLCK, wait=True)

    def test_closing_gives_them_up(self, share: Share) -> None:
        nodeid, fh = self.opened(share)
        share.client.setlk(nodeid, fh, 1, fcntl.F_WRLCK)
        share.client.flush(nodeid, fh, owner=7)
        with raises(errno.EAGAIN):
            share.client.setlk(nodeid, fh, 2, fcntl.F_WRLCK)
        share.client.flush(nodeid, fh, owner=1)
        share.client.setlk(nodeid, fh, 2, fcntl.F_WRLCK)

    def test_the_host_is_an_owner_too(self, share: Share) -> None:
        nodeid, fh = self.opened(share)
        with (share.source / "file").open("r+b") as host:
            fcntl.lockf(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with raises(errno.EAGAIN):
                share.client.setlk(nodeid, fh, 1, fcntl.F_RDLCK)
            fcntl.lockf(host, fcntl.LOCK_UN)
            share.client.setlk(nodeid, fh, 1, fcntl.F_RDLCK)
            with pytest.raises(BlockingIOError):
                fcntl.lockf(host, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_flock_is_of_the_handle(self, share: Share) -> None:
        nodeid, one = self.opened(share)
        two = share.client.open_file(nodeid, os.O_RDONLY)
        share.client.setlk(nodeid, one, 1, fcntl.F_WRLCK, flock=True)
        with raises(errno.EAGAIN):
            share.client.setlk(nodeid, two, 1, fcntl.F_RDLCK, flock=True)
        with raises(errno.EOPNOTSUPP):
            share.client.setlk(nodeid, two, 1, fcntl.F_RDLCK, flock=True, wait=True)
        with (share.source / "file").open("rb") as host, pytest.raises(BlockingIOError):
            fcntl.flock(host, fcntl.LOCK_SH | fcntl.LOCK_NB)
        share.client.release(nodeid, one)
        share.client.setlk(nodeid, two, 1, fcntl.F_RDLCK, flock=True)

    @pytest.mark.parametrize(
        ("type_", "start", "end"), [(7, 0, 1), (fcntl.F_RDLCK, 2, 1), (fcntl.F_RDLCK, 0, 1 << 63)]
    )
    def test_nonsense(self, share: Share, type_: int, start: int, end: int) -> None:
        nodeid, fh = self.opened(share)
        with raises(errno.EINVAL):
            share.client.setlk(nodeid, fh, 1, type_, start, end)

    def test_without_the_option_there_are_none(self, tmp_path: Path) -> None:
        make(tmp_path / "plain")
        with Share(tmp_path / "plain") as share:
            nodeid, fh = self.opened(share)
            with raises(errno.EOPNOTSUPP):
                share.client.setlk(nodeid, fh, 1, fcntl.F_WRLCK)
            with raises(errno.EOPNOTSUPP):
                share.client.getlk(nodeid, fh, 1, fcntl.F_WRLCK)
