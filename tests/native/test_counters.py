"""What is counted of a mount: each operation once, errors, sizes, and reads that missed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from native.dataplane import MountCounters, MountStatistics
from tests.native.rig import BuiltImage, Fetcher, Rig
from virtqueue.fuse_client import FuseClient

GETATTR, READLINK, OPEN, RELEASE, READ, STATFS, GETXATTR, LISTXATTR, OPENDIR, LOOKUP = range(10)
READDIR, READDIRPLUS, ACCESS, FORGET, BATCH_FORGET = range(10, 15)


@contextmanager
def counted(
    image: BuiltImage, *, warm: bool = True, queues: int = 1, miss_timeout_ms: int = 30_000
) -> Iterator[tuple[Rig, MountCounters]]:
    """A session of many mounts, of which the one at /a is counted."""
    with (
        closing(MountCounters()) as counters,
        Rig(image, warm=warm, path=None, num_request_queues=queues, miss_timeout_ms=miss_timeout_ms) as rig,
    ):
        blobs = [cache.blob for cache in rig.caches]
        rig.device.mount_image("/a", rig.image, blobs, counters)
        yield rig, counters


def total(statistics: MountStatistics) -> dict[int, int]:
    return {operation: hits for operation, hits in enumerate(statistics.hits) if hits}


def test_nothing_is_counted_yet(plain: BuiltImage) -> None:
    with counted(plain) as (rig, counters):
        rig.client().getattr(1)  # of another file system
        assert counters.read() == MountStatistics([0] * 15, [0] * 15, [0] * 8, 0, 0)


def test_each_operation_in_its_place(plain: BuiltImage) -> None:
    with counted(plain) as (rig, counters):
        fuse = rig.client()
        root = fuse.walk(b"/a").nodeid  # answered above the mount
        big = fuse.lookup(root, b"big")
        with pytest.raises(NotADirectoryError):
            fuse.lookup(big.nodeid, b"name")
        fuse.getattr(big.nodeid)
        fuse.open(big.nodeid)
        fuse.statfs(root)
        fuse.listxattr(big.nodeid)
        with pytest.raises(OSError):
            fuse.getxattr(big.nodeid, b"user.none")
        fuse.readdir(root, plus=False)
        plain_calls = counters.read().hits[READDIR]
        fuse.readdir(root)
        fuse.forget(big.nodeid)
        fuse.batch_forget([(big.nodeid, 1), (root, 1), (1, 1)])
        seen = counters.read()
        assert plain_calls == 2 and seen.hits[READDIRPLUS] >= 2  # the last one is empty
        assert total(seen) | {READDIR: 0, READDIRPLUS: 0} == {
            GETATTR: 1,
            OPEN: 1,
            STATFS: 1,
            GETXATTR: 1,
            LISTXATTR: 1,
            LOOKUP: 2,
            READDIR: 0,
            READDIRPLUS: 0,
            FORGET: 1,
            BATCH_FORGET: 2,
        }
        assert {op: n for op, n in enumerate(seen.errors) if n} == {LOOKUP: 1, GETXATTR: 1}
        assert (seen.opens, seen.reads, seen.read_bytes) == (1, 0, 0)


def test_reads_by_what_they_returned(plain: BuiltImage) -> None:
    with counted(plain) as (rig, counters):
        fuse = rig.client()
        big = fuse.walk(b"/a/big")
        for size in (1, 1023, 1024, 4096, 64 << 10, 128 << 10):
            assert len(fuse.read(big.nodeid, 0, size)) == size
        assert fuse.read(big.nodeid, big.attr.size, 4096) == b""
        seen = counters.read()
        assert seen.reads == 7 and seen.missed_reads == 0
        assert seen.read_sizes == [3, 1, 1, 0, 1, 1, 0, 0]
        assert seen.read_bytes == 1 + 1023 + 1024 + 4096 + (64 << 10) + (128 << 10)


def test_a_read_that_missed_counts_once(plain: BuiltImage) -> None:
    with counted(plain, warm=False) as (rig, counters), Fetcher(rig):
        fuse = rig.client()
        big = fuse.walk(b"/a/big")
        assert len(fuse.read(big.nodeid, 0, 256 << 10)) == 256 << 10  # of many chunks
        fuse.read(big.nodeid, 0, 4096)
        seen = counters.read()
        assert (seen.reads, seen.missed_reads, seen.errors[READ]) == (2, 1, 0)


def test_a_read_that_waited_in_vain_is_an_error(plain: BuiltImage) -> None:
    with counted(plain, warm=False, miss_timeout_ms=20) as (rig, counters):
        fuse = rig.client()
        big = fuse.walk(b"/a/big")
        with pytest.raises(OSError) as caught:
            fuse.read(big.nodeid, 0, 4096)
        assert caught.value.errno == errno.EIO
        seen = counters.read()
        assert (seen.reads, seen.missed_reads, seen.errors[READ]) == (1, 1, 1)


def test_all_queues_add_up(plain: BuiltImage) -> None:
    with counted(plain, queues=12) as (rig, counters):
        clients: list[FuseClient] = [rig.client(1)]
        clients += [rig.client(index, init=False) for index in range(2, 13)]
        big = clients[0].walk(b"/a/big")
        before = counters.read().reads
        for number, fuse in enumerate(clients):
            for _ in range(number + 1):
                fuse.read(big.nodeid, 0, 100)
        assert counters.read().reads - before == sum(range(1, 13))


def test_counters_outlive_the_mount(plain: BuiltImage) -> None:
    with counted(plain) as (rig, counters):
        fuse = rig.client()
        big = fuse.walk(b"/a/big")
        fuse.read(big.nodeid, 0, 10)
        rig.device.umount("/a")
        with pytest.raises(OSError):
            fuse.read(big.nodeid, 0, 10)
        assert counters.read().reads == 1
    with pytest.raises(ValueError):
        counters.read()
