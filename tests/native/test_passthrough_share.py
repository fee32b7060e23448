"""What a session with a shared directory is like: INIT, options, mounting and unmounting, facts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from native.dataplane import CacheMode, ChunkStore, Device, DirectoryFacts, DirectoryOptions, FileHandles
from tests.native.share import Share, raises, same_attr
from virtqueue.fuse_abi import ROOT_NODEID, InitFlag
from virtqueue.fuse_files import LINUX_FLAGS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "dir").mkdir(parents=True)
    (folder / "file").write_bytes(b"content")
    return folder


def open_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def agreed(share: Share) -> int:
    return share.init.flags | share.init.flags2 << 32


def test_init_offers_what_a_writable_share_needs(source: Path) -> None:
    with Share(source) as share:
        wanted = (
            InitFlag.ATOMIC_O_TRUNC
            | InitFlag.AUTO_INVAL_DATA
            | InitFlag.HANDLE_KILLPRIV_V2
            | InitFlag.DONT_MASK
            | InitFlag.SETXATTR_EXT
            | InitFlag.SECURITY_CTX
            | InitFlag.CREATE_SUPP_GROUP
            | InitFlag.POSIX_ACL
        )
        assert agreed(share) & wanted == wanted
        unwanted = (
            InitFlag.NO_OPEN_SUPPORT
            | InitFlag.NO_OPENDIR_SUPPORT
            | InitFlag.WRITEBACK_CACHE
            | InitFlag.POSIX_LOCKS
            | InitFlag.FLOCK_LOCKS
            | InitFlag.SUBMOUNTS
        )
        assert agreed(share) & unwanted == 0


def test_options_ask_for_more_of_the_session(source: Path) -> None:
    options = DirectoryOptions(writeback=True, locks=True, announce_submounts=True)
    asked = InitFlag.WRITEBACK_CACHE | InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS | InitFlag.SUBMOUNTS
    with Share(source, options) as share:
        assert agreed(share) & asked == asked


def test_nothing_is_agreed_that_the_driver_did_not_offer(source: Path) -> None:
    with Share(source, flags=LINUX_FLAGS & ~InitFlag.INIT_EXT) as share:
        assert share.init.flags2 == 0
        assert agreed(share) & ~LINUX_FLAGS == 0


@pytest.mark.parametrize(
    ("cache", "seconds"), [(CacheMode.NEVER, 0), (CacheMode.AUTO, 1), (CacheMode.ALWAYS, 86400)]
)
def test_timeouts_follow_the_cache_mode(source: Path, cache: CacheMode, seconds: int) -> None:
    with Share(source, DirectoryOptions(cache=cache)) as share:
        entry = share.client.lookup(share.root, b"file")
        assert (entry.entry_valid, entry.entry_valid_nsec) == (seconds, 0)
        assert (entry.attr_valid, entry.attr_valid_nsec) == (seconds, 0)


def test_timeouts_can_be_given(source: Path) -> None:
    with Share(source, DirectoryOptions(entry_timeout=0.25, attr_timeout=2.5)) as share:
        entry = share.client.lookup(share.root, b"file")
        assert (entry.entry_valid, entry.entry_valid_nsec) == (0, 250_000_000)
        assert (entry.attr_valid, entry.attr_valid_nsec) == (2, 500_000_000)


def test_a_negative_timeout_is_refused(source: Path) -> None:
    with pytest.raises(ValueError, match="-1 s"):
        Share(source, DirectoryOptions(entry_timeout=-1))


def test_a_name_that_is_not_there_is_an_error_and_not_remembered(source: Path) -> None:
    with Share(source) as share, raises(errno.ENOENT):
        share.client.lookup(share.root, b"missing")


def test_a_share_below_pseudo_directories(source: Path) -> None:
    with Share(source, path="/containers/one") as share:
        assert share.root != ROOT_NODEID
        same_attr(share.client.getattr(share.root), source)
        same_attr(share.client.walk(b"containers/one/file").attr, source / "file")
        assert share.facts() == DirectoryFacts(inodes=1, path_fds=0, open_files=0, mounts=0, mount_fds=0)


def test_unmounting_frees_what_the_guest_holds(source: Path) -> None:
    before = open_fds()
    with Share(source, path="/share") as share:
        held = open_fds()
        entry = share.client.lookup(share.root, b"file")
        fh = share.client.open_file(entry.nodeid)
        share.client.opendir(share.root)
        assert share.facts().open_files == 2
        assert open_fds() == held + 2
        share.device.umount("/share")
        assert open_fds() == held - 1  # the source's own, too
        for call in (
            lambda: share.client.getattr(entry.nodeid),
            lambda: share.client.read(entry.nodeid, 0, 10, fh=fh),
            lambda: share.client.lookup(share.root, b"file"),
        ):
            with raises(errno.ESTALE):
                call()
        share.client.forget(entry.nodeid)
    assert open_fds() == before


def test_a_guest_that_begins_anew_holds_nothing(source: Path) -> None:
    with Share(source) as share:
        entry = share.client.lookup(share.root, b"file")
        share.client.open_file(entry.nodeid)
        share.client.init(flags=LINUX_FLAGS)
        assert share.facts()[:3] == (0, 0, 0)
        with raises(errno.ESTALE):
            share.client.getattr(entry.nodeid)
        share.client.lookup(share.root, b"file")
        share.client.destroy()
        assert share.facts()[:3] == (0, 0, 0)


def test_an_end_of_the_connection_ends_the_session(source: Path) -> None:
    with Share(source) as share:
        entry = share.client.lookup(share.root, b"file")
        share.client.open_file(entry.nodeid)
        share.device.reset()
        assert share.facts()[:3] == (0, 0, 0)


def test_facts_are_of_directories_only(source: Path) -> None:
    with Share(source, path="/a") as share:
        with raises(errno.ENOENT):
            share.device.directory_facts("/b")
        with pytest.raises(FileExistsError):
            share.device.mount_directory("/a", source)


def test_a_device_for_images_only_shares_no_directory(source: Path) -> None:
    store = ChunkStore()
    device = Device(store)
    with raises(errno.EINVAL):
        device.mount_directory("/", source)
    device.close()
    store.close()


def test_a_source_that_is_no_directory_is_refused(source: Path) -> None:
    with pytest.raises(NotADirectoryError):
        Share(source / "file")
    with pytest.raises(FileNotFoundError):
        Share(source / "missing")


def test_a_source_can_be_a_descriptor(source: Path) -> None:
    fd = os.open(source, os.O_PATH)
    with Share(source) as share:
        share.device.umount("/")
        share.device.mount_directory("/", fd)
        same_attr(share.client.lookup(share.root, b"file").attr, source / "file")
    os.close(fd)


@pytest.mark.parametrize("handles", list(FileHandles))
def test_inodes_are_kept_as_handles_or_as_descriptors(source: Path, handles: FileHandles) -> None:
    with Share(source, DirectoryOptions(file_handles=handles)) as share:
        entry = share.client.lookup(share.root, b"file")
        assert share.facts().inodes == 1
        assert share.facts().path_fds == (1 if handles is FileHandles.NEVER else 0)
        share.client.forget(entry.nodeid)
        assert share.facts()[:2] == (0, 0)
