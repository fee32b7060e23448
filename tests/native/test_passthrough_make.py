"""What guests make in a shared directory, and to whom it belongs."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.host_mounts import clean_mounts, mount
from tests.native.share import Share, pack_rdev, raises, same_attr
from virtqueue.fuse_abi import InitFlag
from virtqueue.fuse_files import LINUX_FLAGS, OPEN_KILL_SUIDGID, group_extension, label_extension


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    folder = tmp_path / "source"
    folder.mkdir()
    folder.chmod(0o777)
    with Share(folder) as made:
        yield made


@pytest.fixture
def old_share(tmp_path: Path) -> Iterator[Share]:
    """The guest's kernel tells neither groups nor labels: before Linux 6.3."""
    folder = tmp_path / "source"
    folder.mkdir()
    with Share(folder, flags=LINUX_FLAGS & ~(InitFlag.CREATE_SUPP_GROUP | InitFlag.SECURITY_CTX)) as made:
        yield made


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


KINDS = [
    (stat.S_IFREG, 0),
    (stat.S_IFIFO, 0),
    (stat.S_IFSOCK, 0),
    (stat.S_IFCHR, 0),  # a whiteout
    (stat.S_IFCHR, os.makedev(1, 5)),
    (stat.S_IFBLK, os.makedev(0x123, 0x45678)),
]


@pytest.mark.parametrize(("kind", "rdev"), KINDS)
def test_mknod(share: Share, kind: int, rdev: int) -> None:
    entry = share.client.mknod(share.root, b"new", kind | 0o640, pack_rdev(rdev))
    same_attr(entry.attr, share.source / "new")
    seen = (share.source / "new").lstat()
    assert (stat.S_IFMT(seen.st_mode), mode_of(share.source / "new"), seen.st_rdev) == (kind, 0o640, rdev)
    same_attr(share.client.lookup(share.root, b"new").attr, share.source / "new")


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFLNK])
def test_mknod_makes_neither_directories_nor_symlinks(share: Share, kind: int) -> None:
    with raises(errno.EINVAL):
        share.client.mknod(share.root, b"new", kind | 0o755)


def test_mkdir_and_what_is_below(share: Share) -> None:
    outer = share.client.mkdir(share.root, b"outer", 0o750)
    assert mode_of(share.source / "outer") == 0o750
    (share.source / "outer").chmod(0o2750)
    inner = share.client.mkdir(outer.nodeid, b"inner", 0o1777)
    same_attr(share.client.getattr(outer.nodeid), share.source / "outer")
    same_attr(inner.attr, share.source / "outer" / "inner")
    assert mode_of(share.source / "outer" / "inner") == 0o3777  # the host's kernel hands set-group-id down


def test_symlink(share: Share) -> None:
    entry = share.client.symlink(share.root, b"new", b"/etc/passwd")
    same_attr(entry.attr, share.source / "new")
    assert (share.source / "new").readlink() == Path("/etc/passwd")
    share.client.symlink(share.root, b"long", b"y" * 4095)
    assert str((share.source / "long").readlink()) == "y" * 4095
    with raises(errno.ENAMETOOLONG):
        share.client.symlink(share.root, b"longer", b"y" * 4096)


def test_link(share: Share) -> None:
    entry, fh = share.client.create(share.root, b"one")
    directory = share.client.mkdir(share.root, b"dir")
    linked = share.client.link(entry.nodeid, directory.nodeid, b"two")
    assert linked.nodeid == entry.nodeid
    assert linked.attr.nlink == 2
    assert (share.source / "one").samefile(share.source / "dir" / "two")
    whiteout = share.client.mknod(share.root, b"w", stat.S_IFCHR)  # overlayfs shares one whiteout
    share.client.link(whiteout.nodeid, directory.nodeid, b"w2")
    assert (share.source / "dir" / "w2").lstat().st_nlink == 2
    symlink = share.client.symlink(share.root, b"s", b"nowhere")
    share.client.link(symlink.nodeid, share.root, b"s2")
    assert str((share.source / "s2").readlink()) == "nowhere"
    with raises(errno.EPERM):
        share.client.link(directory.nodeid, share.root, b"three")
    with raises(errno.EEXIST):
        share.client.link(entry.nodeid, directory.nodeid, b"two")
    share.client.release(entry.nodeid, fh)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"../x"])
def test_names_that_cannot_be_made(share: Share, name: bytes) -> None:
    client, root = share.client, share.root
    entry = client.mkdir(root, b"old")
    for call in (
        lambda: client.mkdir(root, name),
        lambda: client.mknod(root, name, stat.S_IFREG),
        lambda: client.symlink(root, name, b"t"),
        lambda: client.create(root, name),
        lambda: client.link(entry.nodeid, root, name),
        lambda: client.rename(root, b"old", root, name),
        lambda: client.rename(root, name, root, b"new"),
        lambda: client.rename(root, b"old", root, name, 1),
        lambda: client.unlink(root, name),
        lambda: client.rmdir(root, name),
    ):
        with raises(errno.EINVAL):
            call()
    assert [path.name for path in share.source.iterdir()] == ["old"]


def test_a_name_of_255_bytes_and_one_of_256(share: Share) -> None:
    share.client.mkdir(share.root, b"n" * 255)
    assert (share.source / ("n" * 255)).is_dir()
    with raises(errno.ENAMETOOLONG):
        share.client.mkdir(share.root, b"n" * 256)
    with raises(errno.ENAMETOOLONG):
        share.client.lookup(share.root, b"n" * 256)


def test_what_is_there_already(share: Share) -> None:
    client, root = share.client, share.root
    (share.source / "there").write_bytes(b"content")
    for call in (
        lambda: client.mkdir(root, b"there"),
        lambda: client.mknod(root, b"there", stat.S_IFREG),
        lambda: client.symlink(root, b"there", b"t"),
        lambda: client.create(root, b"there", os.O_RDWR | os.O_EXCL),
    ):
        with raises(errno.EEXIST):
            call()
    assert (share.source / "there").read_bytes() == b"content"


class TestCreate:
    def test_a_new_file_is_open(self, share: Share) -> None:
        entry, fh = share.client.create(share.root, b"new", os.O_RDWR, 0o4755)
        same_attr(entry.attr, share.source / "new")
        assert mode_of(share.source / "new") == 0o4755
        assert share.client.write(entry.nodeid, fh, 0, b"abc") == 3
        assert (share.source / "new").read_bytes() == b"abc"

    def test_read_only_and_without_rights(self, share: Share) -> None:
        entry, fh = share.client.create(share.root, b"new", os.O_RDONLY, 0)
        assert share.client.read(entry.nodeid, 0, 10, fh=fh) == b""
        with raises(errno.EBADF):
            share.client.write(entry.nodeid, fh, 0, b"x")

    def test_an_existing_file_is_opened(self, share: Share) -> None:
        (share.source / "there").write_bytes(b"content")
        known = share.client.lookup(share.root, b"there")
        entry, fh = share.client.create(share.root, b"there", os.O_RDWR, 0o600)
        assert entry.nodeid == known.nodeid
        assert share.client.read(entry.nodeid, 0, 10, fh=fh) == b"content"
        entry, fh = share.client.create(share.root, b"there", os.O_RDWR | os.O_TRUNC, 0o600)
        assert share.client.read(entry.nodeid, 0, 10, fh=fh) == b""

    def test_truncating_kills_set_id_bits_when_told(self, share: Share) -> None:
        (share.source / "there").write_bytes(b"content")
        (share.source / "there").chmod(0o4755)
        share.client.create(share.root, b"there", os.O_WRONLY | os.O_TRUNC)
        assert mode_of(share.source / "there") == 0o4755
        share.client.create(share.root, b"there", os.O_WRONLY | os.O_TRUNC, open_flags=OPEN_KILL_SUIDGID)
        assert mode_of(share.source / "there") == 0o755

    @pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
    def test_what_is_no_file_is_not_opened(self, share: Share, kind: int) -> None:
        os.mknod(share.source / "there", kind | 0o666, os.makedev(1, 3))
        with raises(errno.ENXIO):
            share.client.create(share.root, b"there")
        assert share.facts().inodes == 0

    def test_a_symlink_is_not_followed(self, share: Share, tmp_path: Path) -> None:
        (share.source / "there").symlink_to(tmp_path / "outside")
        with raises(errno.ELOOP):
            share.client.create(share.root, b"there")
        assert not (tmp_path / "outside").exists()
        (share.source / "dir").mkdir()
        with raises(errno.EISDIR):
            share.client.create(share.root, b"dir", os.O_RDONLY)

    def test_tmpfile_can_get_a_name(self, share: Share) -> None:
        entry, fh = share.client.tmpfile(share.root)
        assert entry.attr.nlink == 0
        share.client.write(entry.nodeid, fh, 0, b"hidden")
        assert list(share.source.iterdir()) == []
        assert share.client.getattr(entry.nodeid).size == 6
        share.client.link(entry.nodeid, share.root, b"seen")
        assert (share.source / "seen").read_bytes() == b"hidden"

    def test_tmpfile_that_stays_without(self, share: Share) -> None:
        entry, _ = share.client.tmpfile(share.root, os.O_RDWR | os.O_EXCL)
        with raises(errno.ENOENT):
            share.client.link(entry.nodeid, share.root, b"seen")


class TestOwner:
    """Files belong to who made them; the daemon itself is root and stays so."""

    def test_uid_and_gid_of_the_caller(self, share: Share) -> None:
        share.client.uid, share.client.gid = 1000, 2000
        share.client.mkdir(share.root, b"dir")
        share.client.mknod(share.root, b"fifo", stat.S_IFIFO | 0o600)
        share.client.mknod(share.root, b"whiteout", stat.S_IFCHR)
        share.client.symlink(share.root, b"link", b"t")
        share.client.create(share.root, b"file")
        share.client.tmpfile(share.root)
        for path in share.source.iterdir():
            assert (path.lstat().st_uid, path.lstat().st_gid) == (1000, 2000), path
        share.client.uid = share.client.gid = 0
        share.client.mkdir(share.root, b"mine")
        assert ((share.source / "mine").stat().st_uid, (share.source / "mine").stat().st_gid) == (0, 0)

    def test_a_failure_leaves_no_thread_as_somebody_else(self, share: Share) -> None:
        (share.source / "there").mkdir(0o700)
        share.client.uid, share.client.gid = 1000, 1000
        for _ in range(40):  # each thread of the pool
            with raises(errno.EEXIST):
                share.client.mkdir(share.root, b"there")
        share.client.uid = share.client.gid = 0
        there = share.client.lookup(share.root, b"there")
        for index in range(40):
            share.client.mkdir(there.nodeid, b"%d" % index)
        assert {path.stat().st_uid for path in (share.source / "there").iterdir()} == {0}

    def test_a_directory_without_permissions_is_the_guests_to_close(self, share: Share) -> None:
        """overlayfs's work directory is such a one: it makes things there for a user by rights of its own."""
        (share.source / "work").mkdir()
        (share.source / "work").chmod(0)
        work = share.client.lookup(share.root, b"work")
        share.client.uid, share.client.gid = 1000, 1000
        share.client.mkdir(work.nodeid, b"dir")
        share.client.create(work.nodeid, b"file")
        share.client.symlink(work.nodeid, b"link", b"t")
        share.client.mknod(work.nodeid, b"whiteout", stat.S_IFCHR)
        owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (share.source / "work").iterdir()}
        assert owners == {(1000, 1000)}
        with raises(errno.EPERM):  # no other right goes with it
            share.client.mknod(work.nodeid, b"null", stat.S_IFCHR, pack_rdev(os.makedev(1, 3)))

    def test_a_group_of_the_caller(self, share: Share) -> None:
        (share.source / "team").mkdir()
        os.chown(share.source / "team", 0, 3000)
        (share.source / "team").chmod(0o2770)
        team = share.client.lookup(share.root, b"team")
        share.client.uid, share.client.gid = 1000, 1000
        extension = group_extension(3000)
        share.client.mkdir(team.nodeid, b"dir", extensions=extension)
        share.client.create(team.nodeid, b"file", extensions=extension)
        share.client.symlink(team.nodeid, b"link", b"t", extensions=extension)
        share.client.mknod(team.nodeid, b"fifo", stat.S_IFIFO, extensions=extension)
        owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (share.source / "team").iterdir()}
        assert owners == {(1000, 3000)}
        share.client.create(team.nodeid, b"kept", os.O_RDWR, 0o2775, extensions=extension)
        share.client.create(team.nodeid, b"lost", os.O_RDWR, 0o2775, extensions=group_extension(3001))
        assert mode_of(share.source / "team" / "kept") == 0o2775  # only a member makes what is set-group-id
        assert mode_of(share.source / "team" / "lost") == 0o775

    def test_without_groups_the_guest_is_trusted(self, old_share: Share) -> None:
        (old_share.source / "team").mkdir(0o770)
        team = old_share.client.lookup(old_share.root, b"team")
        old_share.client.uid, old_share.client.gid = 1000, 1000
        old_share.client.mkdir(team.nodeid, b"dir")
        assert (old_share.source / "team" / "dir").stat().st_uid == 1000

    def test_set_group_id_of_a_group_that_the_caller_is_not_in(self, share: Share) -> None:
        share.source.chmod(0o2777)
        os.chown(share.source, 0, 3000)
        share.client.uid, share.client.gid = 1000, 1000
        share.client.create(share.root, b"file", os.O_RDWR, 0o2775)
        assert (share.source / "file").stat().st_gid == 3000
        assert mode_of(share.source / "file") == 0o775


class TestUmask:
    @pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
    def test_of_the_caller(self, share: Share, umask: int) -> None:
        share.client.umask = umask
        share.client.mkdir(share.root, b"dir", 0o777)
        share.client.mknod(share.root, b"fifo", stat.S_IFIFO | 0o666)
        share.client.create(share.root, b"file", os.O_RDWR, 0o666)
        assert mode_of(share.source / "dir") == 0o777 & ~umask
        assert mode_of(share.source / "fifo") == 0o666 & ~umask
        assert mode_of(share.source / "file") == 0o666 & ~umask

    def test_a_default_acl_stands_above_it(self, share: Share) -> None:
        entries = [(1, 7, -1), (4, 7, -1), (32, 5, -1)]  # u::rwx, g::rwx, o::r-x
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        os.setxattr(share.source, "system.posix_acl_default", acl)
        share.client.umask = 0o077
        share.client.create(share.root, b"file", os.O_RDWR, 0o666)
        assert mode_of(share.source / "file") == 0o664

    def test_the_process_keeps_its_own(self, share: Share) -> None:
        before = os.umask(0o022)
        try:
            share.client.umask = 0o777
            share.client.mkdir(share.root, b"dir")
            assert os.umask(0o022) == 0o022
        finally:
            os.umask(before)


class TestLabel:
    """FUSE_SECURITY_CTX; any attribute will do for one, the machine need have no SELinux."""

    def test_what_is_made_has_it(self, share: Share) -> None:
        extension = label_extension(b"security.test", b"a label\0")
        share.client.mkdir(share.root, b"dir", extensions=extension)
        share.client.create(share.root, b"file", extensions=extension)
        share.client.symlink(share.root, b"link", b"t", extensions=extension)
        share.client.mknod(share.root, b"fifo", stat.S_IFIFO, extensions=extension)
        for path in share.source.iterdir():
            assert os.getxattr(path, "security.test", follow_symlinks=False) == b"a label\0", path

    def test_with_a_group(self, share: Share) -> None:
        extension = label_extension(b"security.test", b"odd") + group_extension(3000)
        share.client.uid, share.client.gid = 1000, 1000
        share.client.mkdir(share.root, b"dir", extensions=extension)
        assert os.getxattr(share.source / "dir", "security.test") == b"odd"

    def test_where_the_host_keeps_no_labels_there_are_none(self, share: Share, tmp_path: Path) -> None:
        extension = label_extension(b"security.selinux", b"label\0")
        with clean_mounts(tmp_path):
            point = share.source / "ram"
            point.mkdir()
            mount("ramfs", point, "ramfs")  # has no attributes at all
            ram = share.client.lookup(share.root, b"ram").nodeid
            share.client.mkdir(ram, b"dir", extensions=extension)
            share.client.create(ram, b"file", extensions=extension)
            share.client.symlink(ram, b"link", b"t", extensions=extension)
            assert {path.name for path in point.iterdir()} == {"dir", "file", "link"}
            with raises(errno.EOPNOTSUPP):
                share.client.getxattr(share.client.lookup(ram, b"file").nodeid, b"security.selinux")

    def test_nothing_stays_when_it_cannot_be_set(self, share: Share) -> None:
        extension = label_extension(b"nonsense.test", b"x")
        for call in (
            lambda: share.client.mkdir(share.root, b"dir", extensions=extension),
            lambda: share.client.create(share.root, b"file", extensions=extension),
            lambda: share.client.mknod(share.root, b"fifo", stat.S_IFIFO, extensions=extension),
        ):
            with raises(errno.EOPNOTSUPP):
                call()
        assert list(share.source.iterdir()) == []
        assert share.facts()[:3] == (0, 0, 0)

    @pytest.mark.parametrize(
        "extension",
        [
            struct.pack("<II", 4, 32),  # shorter than its own header
            struct.pack("<IIII", 24, 32, 1, 5),  # longer than the request
            struct.pack("<IIII", 16, 32, 2, 5),  # two groups, room for one
            struct.pack("<II", 8, 32),  # no count
            struct.pack("<IIII", 16, 1, 100, 0),  # a label of 100 bytes that are not there
            struct.pack("<IIII8s", 24, 1, 1, 0, b"no-nul-!"),
        ],
    )
    def test_extensions_that_lie(self, share: Share, extension: bytes) -> None:
        with raises(errno.EINVAL):
            share.client.mkdir(share.root, b"dir", extensions=extension)
        assert list(share.source.iterdir()) == []
