"""READDIR and READDIRPLUS of shared directories."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.host_mounts import clean_mounts, tmpfs, umount
from tests.native.share import Share, raises, same_attr
from virtqueue import fuse_abi as abi
from virtqueue.fuse_abi import Opcode


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    folder = tmp_path / "source"
    folder.mkdir()
    with Share(folder) as made:
        yield made


def fill(folder: Path, count: int) -> set[bytes]:
    for index in range(count):
        (folder / f"entry-{index:05d}").touch()
    return {os.fsencode(path.name) for path in folder.iterdir()}


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("count", [0, 1, 100, 2500])
@pytest.mark.parametrize("size", [512, 4096, 65536])
def test_every_entry_once(share: Share, plus: bool, count: int, size: int) -> None:
    expected = fill(share.source, count)
    listed = share.client.list_dir(share.root, plus=plus, size=size)
    names = [dirent.name for dirent in listed]
    assert len(names) == len(set(names))
    assert set(names) == expected | {b".", b".."}


@pytest.mark.parametrize("plus", [False, True])
def test_types_and_numbers(share: Share, plus: bool) -> None:
    (share.source / "dir").mkdir()
    (share.source / "file").touch()
    (share.source / "link").symlink_to("file")
    os.mkfifo(share.source / "fifo")
    os.mknod(share.source / "char", stat.S_IFCHR, 0)
    os.mknod(share.source / "block", stat.S_IFBLK, 0)
    os.mknod(share.source / "socket", stat.S_IFSOCK)
    for dirent in share.client.list_dir(share.root, plus=plus):
        if dirent.name in (b".", b".."):
            assert dirent.dtype == stat.S_IFDIR >> 12  # overlayfs looks at these
            continue
        path = share.source / os.fsdecode(dirent.name)
        assert dirent.dtype == stat.S_IFMT(path.lstat().st_mode) >> 12
        assert dirent.ino == share.client.lookup(share.root, dirent.name).attr.ino


def test_plus_counts_a_look_up_of_each(share: Share) -> None:
    expected = fill(share.source, 30)
    listed = share.client.list_dir(share.root, plus=True, size=1000)
    assert share.facts().inodes == 30
    for dirent in listed:
        assert dirent.entry is not None
        if dirent.name in expected:
            same_attr(dirent.entry.attr, share.source / os.fsdecode(dirent.name))
            assert share.client.lookup(share.root, dirent.name).nodeid == dirent.entry.nodeid
            share.client.forget(dirent.entry.nodeid, 2)
        else:
            assert dirent.entry.nodeid == 0  # the driver has "." and ".." already
    assert share.facts().inodes == 0


def test_plain_looks_nothing_up(share: Share) -> None:
    fill(share.source, 30)
    share.client.list_dir(share.root, plus=False)
    assert share.facts().inodes == 0


def test_reading_on_from_any_entry(share: Share) -> None:
    fill(share.source, 200)
    fh = share.client.opendir(share.root)
    whole = share.client.readdir(share.root, plus=False, fh=fh)
    for index in (0, 1, 57, 150, 201):
        body = abi.READ_IN.pack(fh, whole[index].off, 4096, 0, 0, 0)
        payload = share.client.call(Opcode.READDIR, share.root, body, reply_size=4096)
        rest = [dirent.name for dirent in abi.parse_dirents(payload, plus=False)]
        assert rest == [dirent.name for dirent in whole[index + 1 :]][: len(rest)]
        assert bool(rest) is (index < 201)


def test_two_readers_of_one_handle(share: Share) -> None:
    expected = fill(share.source, 300) | {b".", b".."}
    fh = share.client.opendir(share.root)
    offsets, found = [0, 0], [set[bytes](), set[bytes]()]
    while any(len(names) < len(expected) for names in found):
        for reader in range(2):
            body = abi.READ_IN.pack(fh, offsets[reader], 1024, 0, 0, 0)
            dirents = abi.parse_dirents(
                share.client.call(Opcode.READDIR, share.root, body, reply_size=1024), plus=False
            )
            if dirents:
                offsets[reader] = dirents[-1].off
            found[reader] |= {dirent.name for dirent in dirents}
    assert found == [expected, expected]


def test_names_of_every_length_and_of_odd_bytes(share: Share) -> None:
    names = {b"n" * length for length in range(1, 256)} | {b"\xff\xfe", b"a\nb", b" ", "ü".encode()}
    for name in names:
        Path(os.fsdecode(os.fsencode(share.source) + b"/" + name)).touch()
    for plus in (False, True):
        listed = share.client.list_dir(share.root, plus=plus, size=1024)
        assert {dirent.name for dirent in listed} == names | {b".", b".."}


def test_no_room_for_one_entry(share: Share) -> None:
    fill(share.source, 1)
    fh = share.client.opendir(share.root)
    for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
        with raises(errno.EINVAL):
            share.client.call(opcode, share.root, abi.READ_IN.pack(fh, 0, 20, 0, 0, 0), reply_size=20)


def test_handles_that_are_none(share: Share) -> None:
    (share.source / "file").touch()
    file = share.client.lookup(share.root, b"file")
    file_fh = share.client.open_file(file.nodeid)
    for nodeid, fh, code in (
        (share.root, 1234, errno.EBADF),
        (share.root, file_fh, errno.EBADF),
        (file.nodeid, file_fh, errno.ENOTDIR),
    ):
        with raises(code):
            share.client.readdir(nodeid, fh=fh)
    with raises(errno.ENOTDIR):
        share.client.opendir(file.nodeid)
    directory = share.client.opendir(share.root)
    with raises(errno.EISDIR):
        share.client.read(share.root, 0, 10, fh=directory)


def test_a_directory_that_is_deleted_while_it_is_read(share: Share) -> None:
    (share.source / "dir").mkdir()
    entry = share.client.lookup(share.root, b"dir")
    fh = share.client.opendir(entry.nodeid)
    (share.source / "dir").rmdir()
    with raises(errno.ENOENT):  # as the host says
        share.client.readdir(entry.nodeid, fh=fh)
    share.client.release(entry.nodeid, fh, directory=True)


def test_listing_again_knows_what_stayed_and_sees_what_changed(share: Share) -> None:
    """The second time entries are asked for by name, as they are probably known."""
    fill(share.source, 60)
    (share.source / "dir").mkdir()

    def listed() -> dict[bytes, abi.Entry]:
        return {d.name: d.entry for d in share.client.list_dir(share.root) if d.entry and d.entry.nodeid}

    before = listed()
    changed = [name for index, name in enumerate(sorted(before)) if index % 3 == 0 and name != b"dir"]
    for name in changed:
        path = share.source / os.fsdecode(name)
        path.unlink()
        path.write_bytes(b"another")  # of the same inode number, as likely as not
    with clean_mounts(share.source):
        tmpfs(share.source / "dir")
        after = listed()
        for name, entry in after.items():
            path = share.source / os.fsdecode(name)
            same_attr(entry.attr, path)
            same_attr(share.client.getattr(entry.nodeid), path)
            assert (entry.nodeid == before[name].nodeid) is (name not in changed)
        assert set(before) - set(after) == {b"dir"}  # of another mount: not known yet, and so only listed
        mounted = share.client.lookup(share.root, b"dir")
        again = listed()
        assert again[b"dir"].nodeid == mounted.nodeid != before[b"dir"].nodeid
        assert share.facts().mounts == 1
        umount(share.source / "dir")
    share.client.forget(mounted.nodeid)
    for entries in (before, after, again):
        share.client.batch_forget([(entry.nodeid, 1) for entry in entries.values()])
    assert share.facts()[:4] == (0, 0, 0, 0)
