"""What can block leaves the queue thread: a file system that stands still holds up nobody else.

A frozen ext4 (FIFREEZE) makes everything that changes it wait, for as long as the test likes.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.native.host_mounts import clean_mounts, hanging, mount, umount
from tests.native.rig import BuiltImage, Rig, until
from tests.native.share import Share, same_attr
from virtqueue import fuse_abi as abi
from virtqueue.fuse_abi import Opcode

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
POOL_THREADS = 16


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """`disk` is a file system of its own, on a loop device."""
    (tmp_path / "source" / "disk").mkdir(parents=True)
    (tmp_path / "source" / "file").write_bytes(b"beside it")
    disk = tmp_path / "disk.img"
    with disk.open("wb") as image:
        image.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    with clean_mounts(tmp_path):
        subprocess.run(["mount", "-o", "loop", disk, tmp_path / "source" / "disk"], check=True)
        (tmp_path / "source" / "disk" / "file").write_bytes(b"on the disk")
        yield tmp_path / "source"


@pytest.fixture
def share(source: Path) -> Iterator[Share]:
    with Share(source) as made:
        yield made


@contextmanager
def frozen(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, FIFREEZE, bytes(4))
    try:
        yield
    finally:
        fcntl.ioctl(fd, FITHAW, bytes(4))
        os.close(fd)


def pool_runs(share: Share) -> int:
    return share.device.statistics()["pool_runs"]


def test_a_frozen_file_system_holds_up_nothing_else(share: Share) -> None:
    client = share.client
    disk, on_disk, beside = client.walk(b"disk"), client.walk(b"disk/file"), client.walk(b"file")
    handles = [(node.nodeid, client.open_file(node.nodeid, os.O_RDWR)) for node in (on_disk, beside)]
    for nodeid, fh in handles:
        client.read(nodeid, 0, 10, fh=fh)
    with frozen(share.source / "disk"):
        waiting = [
            client.submit(
                Opcode.MKDIR, disk.nodeid, abi.MKDIR_IN.pack(0o755, 0) + b"%d\0" % n, reply_size=128
            )
            for n in range(2 * POOL_THREADS)
        ]
        for _ in range(100):  # what is in memory is served, of the frozen one too
            same_attr(client.getattr(beside.nodeid), share.source / "file")
            same_attr(client.getattr(on_disk.nodeid), share.source / "disk" / "file")
            assert client.lookup(share.root, b"file").nodeid == beside.nodeid
            assert client.lookup(disk.nodeid, b"file").nodeid == on_disk.nodeid
            assert client.read(*handles[0][:1], 0, 10, fh=handles[0][1]) == b"on the dis"
            assert client.read(beside.nodeid, 0, 10, fh=handles[1][1]) == b"beside it"
            client.statfs(disk.nodeid)
        assert client.in_flight == len(waiting)
    for unique in waiting:
        client.wait(unique)
    assert sum(1 for path in (share.source / "disk").iterdir() if path.name.isdigit()) == len(waiting)


@pytest.mark.parametrize("cached", [True, False], ids=["in-memory", "on-disk"])
def test_a_frozen_file_system_holds_up_no_image(
    source: Path, plain: BuiltImage, big: bytes, tmp_path: Path, cached: bool
) -> None:
    """Neither what is answered at once nor what has to be read from the disk."""
    with Rig(plain, path="/rafs", data_path=tmp_path / "data") as rig:
        rig.device.mount_directory("/share", source)
        client = rig.client()
        image_file = client.walk(b"rafs/big").nodeid
        disk = client.walk(b"share/disk").nodeid
        before = rig.device.statistics()["pool_runs"] + 2 * POOL_THREADS
        with frozen(source / "disk"):
            waiting = [
                client.submit(Opcode.MKDIR, disk, abi.MKDIR_IN.pack(0o755, 0) + b"%d\0" % n, reply_size=128)
                for n in range(2 * POOL_THREADS)
            ]
            until(lambda: rig.device.statistics()["pool_runs"] == before)
            if not cached:
                os.fsync(rig.cache.data_fd)
                os.posix_fadvise(rig.cache.data_fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(0, len(big), 65536):
                assert client.read(image_file, offset, 65536) == big[offset : offset + 65536]
            assert (rig.device.statistics()["pool_runs"] == before) is cached
            assert client.in_flight == len(waiting)
        for unique in waiting:
            client.wait(unique)


def test_where_operations_run(share: Share) -> None:
    """What was used a moment ago is answered by the queue thread; what changes something never is."""
    client = share.client
    entry = client.lookup(share.root, b"file")
    fh = client.open_file(entry.nodeid, os.O_RDONLY)
    client.listxattr(entry.nodeid)
    before = pool_runs(share)
    client.getattr(entry.nodeid)
    client.lookup(share.root, b"file")
    client.read(entry.nodeid, 0, 100, fh=fh)
    client.listxattr(entry.nodeid)
    client.statfs(share.root)
    second = client.open_file(entry.nodeid)
    client.flush(entry.nodeid, second)
    client.release(entry.nodeid, second)
    assert pool_runs(share) == before
    third = client.open_file(entry.nodeid, os.O_RDWR)
    client.write(entry.nodeid, third, 0, b"B")
    before = pool_runs(share)
    assert client.read(entry.nodeid, 0, 100, fh=third) == b"Beside it"  # whatever became of the write
    assert pool_runs(share) == before
    client.mkdir(share.root, b"new")
    client.setattr(entry.nodeid, 1, mode=0o600)
    client.fsync(entry.nodeid, fh)
    client.list_dir(share.root)
    assert pool_runs(share) >= before + 4


def test_a_name_that_is_not_in_memory_is_looked_up_by_the_pool(share: Share, tmp_path: Path) -> None:
    client = share.client
    point = share.source / "disk"
    umount(point)
    subprocess.run(
        ["mount", "-o", "loop", tmp_path / "disk.img", point], check=True
    )  # nothing of it is cached
    client.lookup(share.root, b"file")
    before = pool_runs(share)
    disk = client.lookup(share.root, b"disk")  # a mount that is new to us
    assert pool_runs(share) == before + 1
    client.lookup(disk.nodeid, b"file")
    assert pool_runs(share) == before + 2
    client.lookup(disk.nodeid, b"file")
    assert pool_runs(share) == before + 2


def test_a_closed_file_that_was_deleted_is_deleted_by_the_pool(share: Share) -> None:
    client = share.client
    entry = client.lookup(share.root, b"file")
    fh = client.open_file(entry.nodeid)
    client.unlink(share.root, b"file")
    before = pool_runs(share)
    client.release(entry.nodeid, fh)
    assert pool_runs(share) == before + 1


def test_a_file_that_was_not_written_is_closed_at_once(share: Share) -> None:
    client = share.client
    entry, fh = client.create(share.root, b"new")
    before = pool_runs(share)
    client.release(entry.nodeid, fh)
    assert pool_runs(share) == before
    for change in ("write", "truncate", "fallocate"):
        fh = client.open_file(entry.nodeid, os.O_RDWR)
        if change == "write":
            client.write(entry.nodeid, fh, 0, b"x")
        elif change == "truncate":
            client.truncate(entry.nodeid, 5, fh=fh)
        else:
            client.fallocate(entry.nodeid, fh, 0, 4096)
        before = pool_runs(share)
        client.release(entry.nodeid, fh)
        assert pool_runs(share) == before + 1, change


def test_a_release_waits_behind_nothing_of_the_frozen(share: Share) -> None:
    """Written files are closed by the pool; the guest does not wait for that, nor for another file."""
    client = share.client
    on_disk = client.walk(b"disk/file")
    fh = client.open_file(on_disk.nodeid, os.O_RDWR)
    client.write(on_disk.nodeid, fh, 0, b"ON")
    client.release(on_disk.nodeid, fh)
    assert share.facts().open_files == 0
    assert (share.source / "disk" / "file").read_bytes() == b"ON the disk"


def test_the_root_of_a_share_that_is_not_local_is_looked_up_by_the_pool(tmp_path: Path) -> None:
    """Of a file system that is not known to be a disk's or memory's, any answer may take long."""
    (tmp_path / "source").mkdir()
    with clean_mounts(tmp_path):
        mount("proc", tmp_path / "source", "proc")
        with Share(tmp_path / "source", path="/share") as share:
            before = pool_runs(share)
            assert share.client.lookup(abi.ROOT_NODEID, b"share").nodeid == share.root
            assert pool_runs(share) == before + 1


def test_a_mount_that_answers_nothing_holds_up_nothing_else(share: Share) -> None:
    """Its root is found in the kernel's caches, but what it is like has to be asked."""
    client = share.client
    (share.source / "volume").mkdir()
    client.list_dir(share.root)
    with hanging(share.source / "volume"):
        waiting = [
            client.submit(Opcode.LOOKUP, share.root, b"volume\0", reply_size=abi.ENTRY_OUT_SIZE)
            for _ in range(2 * POOL_THREADS)
        ]
        syncing = client.submit(Opcode.SYNCFS, share.root, bytes(8), reply_size=0)
        for number in range(20):  # of the same directory, on the queue's thread and by those that may block
            same_attr(client.lookup(share.root, b"file").attr, share.source / "file")
            client.mkdir(share.root, b"dir-%d" % number)
            names = {entry.name for entry in client.list_dir(share.root)}
            assert {b"volume", b"file", b"dir-%d" % number} <= names
            client.rmdir(share.root, b"dir-%d" % number)
        assert client.in_flight == len(waiting) + 1
    client.wait(syncing)
    for unique in waiting:
        with suppress(OSError):  # those whose turn came after the unmount find the directory below
            client.wait(unique)
