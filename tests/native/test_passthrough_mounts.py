"""Mounts of the host inside a shared directory: entered, told apart, and never held busy.

Kata binds a container's snapshot directory below the share, unmounts it plainly when the container stops, and
then deletes recursively: an umount that failed would cost the snapshot (contract 2.7, 3.5).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.dataplane import DirectoryOptions, FileHandles
from tests.native.host_mounts import MNT_DETACH, bind, clean_mounts, mount, tmpfs, umount
from tests.native.share import Share, error_of, raises, same_attr

SUBMOUNT = 1


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """`point` is for mounts; `snapshot`, outside of the share, is what is bound there."""
    (tmp_path / "source" / "point" / "covered").mkdir(parents=True)
    (tmp_path / "snapshot" / "fs" / "deep").mkdir(parents=True)
    (tmp_path / "snapshot" / "file").write_bytes(b"of the snapshot")
    (tmp_path / "snapshot" / "fs" / "deep" / "leaf").write_bytes(b"leaf")
    with clean_mounts(tmp_path):
        yield tmp_path / "source"


@pytest.fixture
def share(source: Path) -> Iterator[Share]:
    with Share(source) as made:
        yield made


def test_a_mount_made_later_is_entered(share: Share) -> None:
    before = share.client.lookup(share.root, b"point")
    share.client.lookup(before.nodeid, b"covered")
    bind(share.source.parent / "snapshot", share.source / "point")
    point = share.client.lookup(share.root, b"point")
    assert point.nodeid != before.nodeid
    same_attr(point.attr, share.source / "point")
    same_attr(share.client.walk(b"point/fs/deep/leaf").attr, share.source / "point/fs/deep/leaf")
    with raises(errno.ENOENT):
        share.client.lookup(point.nodeid, b"covered")
    share.client.lookup(before.nodeid, b"covered")  # what is below is still what it was
    assert share.facts().mounts == 1


def test_a_plain_umount_succeeds_while_the_guest_remembers_everything(share: Share) -> None:
    bind(share.source.parent / "snapshot", share.source / "point")
    entries = [
        share.client.walk(path) for path in (b"point", b"point/file", b"point/fs", b"point/fs/deep/leaf")
    ]
    point = entries[0].nodeid
    share.client.mkdir(point, b"made")
    share.client.setxattr(point, b"trusted.overlay.opaque", b"y")
    entry, fh = share.client.create(point, b"new")
    share.client.write(entry.nodeid, fh, 0, b"data")
    share.client.fsync(entry.nodeid, fh)
    share.client.list_dir(point)
    share.client.rename(point, b"new", entries[2].nodeid, b"moved")
    share.client.syncfs(share.root)
    share.client.release(entry.nodeid, fh)
    for known in entries:
        share.client.getattr(known.nodeid)
    assert share.facts().inodes > 5
    assert share.facts().mount_fds == 0
    umount(share.source / "point")
    for known in entries:
        with raises(errno.ESTALE):
            share.client.getattr(known.nodeid)
        share.client.forget(known.nodeid, 100)
    assert list((share.source / "point").iterdir()) == [share.source / "point" / "covered"]
    assert (share.source.parent / "snapshot" / "fs" / "moved").read_bytes() == b"data"


def test_only_an_open_file_holds_a_mount_and_then_the_way_there_is_kept(share: Share) -> None:
    bind(share.source.parent / "snapshot", share.source / "point")
    file = share.client.walk(b"point/file")
    fh = share.client.open_file(file.nodeid)
    share.client.getattr(file.nodeid)
    assert share.facts()[2:] == (1, 1, 1)  # open files, mounts, mounts held
    with raises(errno.EBUSY):
        umount(share.source / "point")
    share.client.release(file.nodeid, fh)
    assert share.facts()[2:] == (0, 1, 0)
    umount(share.source / "point")


def test_an_open_file_goes_on_after_a_lazy_umount(share: Share) -> None:
    bind(share.source.parent / "snapshot", share.source / "point")
    file = share.client.walk(b"point/file")
    fh = share.client.open_file(file.nodeid)
    umount(share.source / "point", MNT_DETACH)
    assert share.client.read(file.nodeid, 0, 100, fh=fh) == b"of the snapshot"
    share.client.release(file.nodeid, fh)
    with raises(errno.ESTALE):
        share.client.open_file(file.nodeid)


def test_forgetting_the_last_inode_forgets_the_mount(share: Share) -> None:
    bind(share.source.parent / "snapshot", share.source / "point")
    leaf = share.client.walk(b"point/fs/deep/leaf")
    known = [share.client.walk(path).nodeid for path in (b"point", b"point/fs", b"point/fs/deep")]
    for nodeid in (leaf.nodeid, *known):
        share.client.forget(nodeid, 100)
    assert share.facts()[:4] == (0, 0, 0, 0)


def test_another_mount_at_the_same_path_is_another(share: Share) -> None:
    """A container of the same id is started again (gotcha 35)."""
    seen = set()
    for number in range(5):
        tmpfs(share.source / "point")
        (share.source / "point" / "file").write_bytes(b"of mount %d" % number)
        file = share.client.walk(b"point/file")
        assert file.nodeid not in seen
        seen.add(file.nodeid)
        fh = share.client.open_file(file.nodeid)
        assert share.client.read(file.nodeid, 0, 100, fh=fh) == b"of mount %d" % number
        share.client.release(file.nodeid, fh)
        umount(share.source / "point")
    for nodeid in seen:
        with raises(errno.ESTALE):
            share.client.open_file(nodeid)


def test_a_mount_on_a_mount_covers_it_until_it_goes(share: Share) -> None:
    bind(share.source.parent / "snapshot", share.source / "point")
    file = share.client.walk(b"point/file")
    tmpfs(share.source / "point")
    with raises(errno.ESTALE):
        share.client.getattr(file.nodeid)
    with raises(errno.ENOENT):
        share.client.walk(b"point/file")
    umount(share.source / "point")
    same_attr(share.client.getattr(file.nodeid), share.source / "point" / "file")


def test_mounts_inside_mounts(share: Share) -> None:
    bind(share.source.parent / "snapshot", share.source / "point")
    tmpfs(share.source / "point" / "fs")
    (share.source / "point/fs/again").mkdir()
    tmpfs(share.source / "point/fs/again")
    (share.source / "point/fs/again/file").write_bytes(b"deep")
    file = share.client.walk(b"point/fs/again/file")
    assert share.facts().mounts == 3
    fh = share.client.open_file(file.nodeid, os.O_RDWR)
    share.client.write(file.nodeid, fh, 0, b"DEEP")
    share.client.syncfs(share.root)
    share.client.release(file.nodeid, fh)
    assert (share.source / "point/fs/again/file").read_bytes() == b"DEEP"
    for point in ("point/fs/again", "point/fs", "point"):
        umount(share.source / point)
    with raises(errno.ESTALE):
        share.client.getattr(file.nodeid)


def test_the_directory_of_a_mount_may_move(share: Share) -> None:
    (share.source / "container").mkdir()
    (share.source / "container" / "point").mkdir()
    tmpfs(share.source / "container" / "point")
    (share.source / "container/point/file").touch()
    file = share.client.walk(b"container/point/file")
    (share.source / "container").rename(share.source / "renamed")
    same_attr(share.client.getattr(file.nodeid), share.source / "renamed/point/file")


def test_a_mounted_file(share: Share, tmp_path: Path) -> None:
    (share.source / "resolv.conf").touch()
    (tmp_path / "other").write_bytes(b"nameserver")
    bind(tmp_path / "other", share.source / "resolv.conf")
    entry = share.client.lookup(share.root, b"resolv.conf")
    assert share.client.lookup(share.root, b"resolv.conf").nodeid == entry.nodeid
    same_attr(share.client.getattr(entry.nodeid), share.source / "resolv.conf")
    fh = share.client.open_file(entry.nodeid, os.O_RDWR)
    assert share.client.write(entry.nodeid, fh, 0, b"N") == 1
    assert share.client.read(entry.nodeid, 0, 100, fh=fh) == b"Nameserver"
    share.client.setxattr(entry.nodeid, b"user.x", b"y")
    share.client.setattr(entry.nodeid, 1, mode=0o600)
    share.client.release(entry.nodeid, fh)
    same_attr(share.client.getattr(entry.nodeid), tmp_path / "other")
    share.client.syncfs(share.root)
    umount(share.source / "resolv.conf")
    with raises(errno.ESTALE):
        share.client.getattr(entry.nodeid)
    assert share.client.lookup(share.root, b"resolv.conf").nodeid != entry.nodeid


def test_a_mounted_device_or_pipe_is_seen_and_not_opened(share: Share, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, what in (("null", Path("/dev/null")), ("fifo", tmp_path / "fifo")):
        (share.source / name).touch()
        bind(what, share.source / name)
        entry = share.client.lookup(share.root, name.encode())
        same_attr(entry.attr, share.source / name)
        with raises(errno.ENXIO):
            share.client.open_file(entry.nodeid)
    share.client.syncfs(share.root)
    umount(share.source / "null")
    umount(share.source / "fifo")


def test_a_read_only_mount_stays_so(share: Share) -> None:
    bind(share.source.parent / "snapshot", share.source / "point", read_only=True)
    point, file = share.client.walk(b"point"), share.client.walk(b"point/file")
    for call in (
        lambda: share.client.mkdir(point.nodeid, b"new"),
        lambda: share.client.unlink(point.nodeid, b"file"),
        lambda: share.client.create(point.nodeid, b"new")[0],
        lambda: share.client.setattr(file.nodeid, 1, mode=0),
        lambda: share.client.truncate(file.nodeid, 0),
        lambda: share.client.setxattr(file.nodeid, b"user.x", b"y"),
        lambda: share.client.removexattr(file.nodeid, b"user.x"),
        lambda: share.client.open_file(file.nodeid, os.O_RDWR),
    ):
        assert error_of(call) == errno.EROFS
    umount(share.source / "point")


def test_names_do_not_cross_mounts(share: Share) -> None:
    bind(share.source.parent / "snapshot", share.source / "point")
    (share.source / "outer").touch()
    (share.source / "same").mkdir()
    bind(share.source.parent / "snapshot", share.source / "same")  # the same file system, mounted twice
    point, same = share.client.walk(b"point").nodeid, share.client.walk(b"same").nodeid
    outer, file = share.client.walk(b"outer").nodeid, share.client.walk(b"point/file").nodeid
    assert share.client.walk(b"same/file").nodeid != file
    for call in (
        lambda: share.client.rename(share.root, b"outer", point, b"x"),
        lambda: share.client.rename(point, b"file", share.root, b"x"),
        lambda: share.client.rename(point, b"file", same, b"x"),
        lambda: share.client.rename(point, b"file", same, b"file", 2),
        lambda: share.client.link(outer, point, b"x"),
        lambda: share.client.link(file, same, b"x"),
    ):
        assert error_of(call) == errno.EXDEV
    with raises(errno.EBUSY):
        share.client.rmdir(share.root, b"point")
    with raises(errno.EBUSY):
        share.client.rename(share.root, b"point", share.root, b"x")


def test_equal_inode_numbers_of_two_devices_are_told_apart(share: Share) -> None:
    names = [b"one", b"two", b"three"]
    for name in names:
        (share.source / name.decode()).mkdir()
        tmpfs(share.source / name.decode())
        (share.source / name.decode() / "file").touch()
    on_host = {(share.source / name.decode() / "file").stat().st_ino for name in names}
    assert len(on_host) == 1  # fresh memory file systems count alike
    numbers = [share.client.walk(name + b"/file").attr.ino for name in names]
    assert len(set(numbers)) == 3
    assert [share.client.walk(name + b"/file").attr.ino for name in names] == numbers
    for name, number in zip(names, numbers, strict=True):
        listed = share.client.list_dir(share.client.walk(name).nodeid, plus=False)
        assert {dirent.name: dirent.ino for dirent in listed}[b"file"] == number


@pytest.mark.parametrize("announced", [False, True])
def test_submounts_are_announced_if_wanted(source: Path, announced: bool) -> None:
    tmpfs(source / "point")
    (source / "point" / "dir").mkdir()
    with Share(source, DirectoryOptions(announce_submounts=announced)) as share:
        assert share.client.walk(b"point").attr.flags & SUBMOUNT == (SUBMOUNT if announced else 0)
        assert share.client.walk(b"point/dir").attr.flags & SUBMOUNT == 0
        umount(source / "point")


def test_a_file_system_without_handles_is_kept_by_descriptors(share: Share, tmp_path: Path) -> None:
    """overlayfs: the root of a container whose image is an ordinary one."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_bytes(b"lower")
    layers = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    mount("overlay", share.source / "point", "overlay", data=layers)
    file = share.client.walk(b"point/file")
    assert share.facts().path_fds == 2
    same_attr(share.client.getattr(file.nodeid), share.source / "point" / "file")
    fh = share.client.open_file(file.nodeid, os.O_RDWR)
    assert share.client.write(file.nodeid, fh, 0, b"UPPER") == 5
    share.client.release(file.nodeid, fh)
    assert (tmp_path / "upper" / "file").read_bytes() == b"UPPER"
    with raises(errno.EBUSY):
        umount(share.source / "point")
    point = share.client.walk(b"point")
    for nodeid in (file.nodeid, point.nodeid):
        share.client.forget(nodeid, 100)
    assert share.facts()[:4] == (0, 0, 0, 0)
    umount(share.source / "point")


def test_handles_can_be_insisted_on(source: Path, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    layers = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    mount("overlay", source / "point", "overlay", data=layers)
    options = DirectoryOptions(file_handles=FileHandles.MANDATORY)
    with Share(source, options) as share, raises(errno.EOPNOTSUPP):
        share.client.walk(b"point")
    with raises(errno.EOPNOTSUPP):
        Share(source / "point", options)


def test_mounts_come_and_go_under_requests(share: Share) -> None:
    """Whatever a request meets: the file of this mount, or ESTALE or ENOENT; and no umount is ever refused
    for longer than a request lasts."""
    stop, wrong = threading.Event(), list[str]()
    bind(share.source.parent / "snapshot", share.source / "point")
    known = share.client.walk(b"point/file")

    def host() -> None:
        for _ in range(200):
            while error_of(lambda: umount(share.source / "point")) == errno.EBUSY:
                os.sched_yield()
            bind(share.source.parent / "snapshot", share.source / "point")
        stop.set()

    thread = threading.Thread(target=host)
    thread.start()
    try:
        while not stop.is_set():
            for call in (
                lambda: share.client.getattr(known.nodeid),
                lambda: share.client.walk(b"point/fs/deep/leaf"),
                lambda: share.client.list_dir(share.client.walk(b"point").nodeid),
                lambda: share.client.setxattr(known.nodeid, b"user.x", b"y"),
            ):
                code = error_of(call)
                if code not in (0, errno.ESTALE, errno.ENOENT):
                    wrong.append(os.strerror(code))
    finally:
        thread.join()
    assert wrong == []
    same_attr(share.client.walk(b"point/file").attr, share.source / "point" / "file")
