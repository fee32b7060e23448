"""Names that go away or move, case by case as the host does it: each case runs on both of two equal trees."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.share import Share, error_of, raises

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = ["file", "other", "empty", "full", "link", "fifo", "full/inner", "full/leaf", "missing"]


def make_tree(top: Path) -> None:
    (top / "full" / "inner").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "file").write_bytes(b"the file")
    (top / "other").write_bytes(b"the other")
    (top / "full" / "leaf").write_bytes(b"the leaf")
    (top / "link").symlink_to("file")
    os.mkfifo(top / "fifo")


@pytest.fixture
def oracle(tmp_path: Path) -> Path:
    make_tree(tmp_path / "oracle")
    return tmp_path / "oracle"


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    make_tree(tmp_path / "source")
    with Share(tmp_path / "source") as made:
        yield made


def host_rename(top: Path, old: str, new: str, flags: int) -> int:
    """renameat2; the errno, or 0."""
    if LIBC.renameat2(-100, bytes(top / old), -100, bytes(top / new), flags) == 0:
        return 0
    return ctypes.get_errno()


def guest_rename(share: Share, top: str, old: str, new: str, flags: int | None) -> int:
    def parent_of(name: str) -> tuple[int, bytes]:
        folder, leaf = os.path.split(f"{top}/{name}".encode())
        return share.client.walk(folder).nodeid, leaf

    old_parent, old_leaf = parent_of(old)
    new_parent, new_leaf = parent_of(new)
    return error_of(lambda: share.client.rename(old_parent, old_leaf, new_parent, new_leaf, flags))


def listing(top: Path) -> dict[str, object]:
    """Every name below `top`: its mode, device number, and content, target or nothing."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        seen = path.lstat()
        content: object = None
        if stat.S_ISREG(seen.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(seen.st_mode):
            content = path.readlink()
        found[str(path.relative_to(top))] = (seen.st_mode, seen.st_rdev, seen.st_nlink, content)
    return found


RENAME_FLAGS = [None, 0, NOREPLACE, EXCHANGE, WHITEOUT, NOREPLACE | WHITEOUT, NOREPLACE | EXCHANGE, 8]


@pytest.mark.parametrize("flags", RENAME_FLAGS)
@pytest.mark.parametrize("old", NAMES)
def test_rename_from_everything_to_everything(
    share: Share, oracle: Path, old: str, flags: int | None
) -> None:
    for new in NAMES:
        case = "to-" + new.replace("/", "-")
        make_tree(oracle / case)
        make_tree(share.source / case)
        expected = host_rename(oracle / case, old, new, flags or 0)
        assert guest_rename(share, case, old, new, flags) == expected, new
        assert listing(share.source / case) == listing(oracle / case), new


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("directory", [False, True])
def test_unlink_and_rmdir_of_everything(share: Share, oracle: Path, name: str, directory: bool) -> None:
    expected = error_of((oracle / name).rmdir if directory else (oracle / name).unlink)
    *folders, leaf = name.encode().split(b"/")
    parent = share.client.walk(folders[0]).nodeid if folders else share.root
    remove = share.client.rmdir if directory else share.client.unlink
    assert error_of(lambda: remove(parent, leaf)) == expected
    assert listing(share.source) == listing(oracle)


def test_a_whiteout_is_left_where_a_file_was(share: Share) -> None:
    share.client.rename(share.root, b"file", share.root, b"moved", WHITEOUT)
    left = (share.source / "file").lstat()
    assert stat.S_ISCHR(left.st_mode)
    assert left.st_rdev == 0
    assert (share.source / "moved").read_bytes() == b"the file"


def test_an_opaque_directory_takes_the_place_of_one(share: Share) -> None:
    """What overlayfs does for mkdir over a whiteout."""
    work = share.client.mkdir(share.root, b"work")
    fresh = share.client.mkdir(work.nodeid, b"#1")
    share.client.setxattr(fresh.nodeid, b"trusted.overlay.opaque", b"y")
    share.client.rename(work.nodeid, b"#1", share.root, b"full", EXCHANGE)
    assert os.getxattr(share.source / "full", "trusted.overlay.opaque") == b"y"
    assert (share.source / "work" / "#1" / "leaf").exists()


def test_a_renamed_inode_stays_itself(share: Share) -> None:
    leaf = share.client.walk(b"full/leaf")
    share.client.rename(share.root, b"full", share.root, b"elsewhere")
    assert share.client.walk(b"elsewhere/leaf").nodeid == leaf.nodeid
    assert share.client.getattr(leaf.nodeid).size == 8


def test_an_open_file_outlives_its_name(share: Share) -> None:
    entry = share.client.lookup(share.root, b"file")
    fh = share.client.open_file(entry.nodeid, os.O_RDWR)
    share.client.unlink(share.root, b"file")
    assert share.client.getattr(entry.nodeid).nlink == 0
    assert share.client.read(entry.nodeid, 0, 100, fh=fh) == b"the file"
    share.client.truncate(entry.nodeid, 3, fh=fh)
    share.client.setattr(entry.nodeid, 1, mode=0o600)
    share.client.setxattr(entry.nodeid, b"user.x", b"y")
    assert share.client.getattr(entry.nodeid).size == 3
    share.client.release(entry.nodeid, fh)
    with raises(errno.ESTALE):
        share.client.getattr(entry.nodeid)
    share.client.forget(entry.nodeid)
    assert share.facts()[:3] == (0, 0, 0)


def test_a_handle_can_be_released_after_its_inode_was_forgotten(share: Share) -> None:
    """FORGET goes by the queue of high priority, and may be first."""
    entry = share.client.lookup(share.root, b"file")
    fh = share.client.open_file(entry.nodeid, os.O_RDWR)
    share.client.forget(entry.nodeid)
    share.client.release(entry.nodeid, fh)
    assert share.facts()[:3] == (0, 0, 0)
    with raises(errno.EBADF):
        share.client.release(entry.nodeid, fh)


def test_renames_do_not_reach_into_another_mount(share: Share, tmp_path: Path) -> None:
    share.device.umount("/")
    for name in ("one", "two"):
        make_tree(tmp_path / name)
        share.device.mount_directory(f"/{name}", tmp_path / name)
    one, two = share.client.walk(b"one").nodeid, share.client.walk(b"two").nodeid
    file = share.client.walk(b"one/file").nodeid
    for call in (
        lambda: share.client.rename(one, b"file", two, b"file"),
        lambda: share.client.rename(one, b"file", two, b"file", EXCHANGE),
        lambda: share.client.link(file, two, b"linked"),
    ):
        with raises(errno.EXDEV):
            call()
    assert listing(tmp_path / "one") == listing(tmp_path / "two")
