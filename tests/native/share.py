"""A host directory served by the data plane, without a socket: `Share`, and the trees that tests share.

Tests look at the directory itself beside what the guest sees: the host's kernel is the oracle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from native.dataplane import ChunkStore, Device, DirectoryFacts, DirectoryOptions, MemoryRegion
from virtqueue.driver import Driver
from virtqueue.features import VirtioFeature
from virtqueue.fuse_abi import ROOT_NODEID, Attr, InitReply
from virtqueue.fuse_files import LINUX_FLAGS, FileClient
from virtqueue.guest_memory import GuestMemory

DEADLINE_S = 20.0
FEATURES = VirtioFeature.RING_EVENT_IDX | VirtioFeature.RING_INDIRECT_DESC


class Share:
    """A device that serves `source` at `path`, and a guest's client with a session. A context manager.

    `flags`: what the guest's driver offers. `root` is the node id of the directory.
    """

    def __init__(
        self,
        source: Path,
        options: DirectoryOptions | None = None,
        *,
        path: str = "/",
        flags: int = LINUX_FLAGS,
        queues: int = 1,
        memory_size: int = 32 << 20,
    ) -> None:
        self.source = source
        self.path = path
        self.store = ChunkStore()
        self.device = Device(self.store, num_request_queues=queues, shared=True)
        self.memory = GuestMemory(((0x10_0000, memory_size),))
        self.device.set_mem_table(
            [MemoryRegion(r.gpa, r.size, r.user_addr, r.mmap_offset, r.fd) for r in self.memory.regions]
        )
        self.drivers: list[Driver] = []
        try:
            self.device.mount_directory(path, source, options=options)
            self.client = self.connect(1)
            self.init: InitReply = self.client.init(flags=flags)
            self.root = ROOT_NODEID if path == "/" else self.client.walk(path.encode()).nodeid
        except BaseException:
            self.close()
            raise

    def connect(self, index: int) -> FileClient:
        """A client on queue `index`, which is started for it; without a session of its own."""
        driver = Driver(self.memory, 128, virtio_features=FEATURES)
        self.drivers.append(driver)
        self.device.set_features(indirect=True, event_idx=True)
        self.device.set_vring_num(index, driver.size)
        self.device.set_vring_base(index, 0)
        user_addr = self.memory.user_addr
        self.device.set_vring_addr(
            index,
            desc=user_addr(driver.desc_gpa),
            used=user_addr(driver.used_gpa),
            avail=user_addr(driver.avail_gpa),
        )
        self.device.set_vring_call(index, os.dup(driver.call_fd))
        self.device.set_vring_kick(index, os.dup(driver.kick_fd))
        self.device.set_vring_enable(index, True)
        return FileClient(driver, indirect=True, timeout=DEADLINE_S)

    def facts(self) -> DirectoryFacts:
        return self.device.directory_facts(self.path)

    def close(self) -> None:
        self.device.close()
        self.store.close()
        for driver in self.drivers:
            driver.close()
        self.memory.close()

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def same_attr(attr: Attr, path: Path) -> None:
    """Assert that a guest sees what the host has, but for the inode number."""
    stat = path.lstat()
    seen = (attr.mode, attr.nlink, attr.uid, attr.gid, attr.size, attr.blocks)
    assert seen == (stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size, stat.st_blocks)
    assert nanoseconds(attr.atime, attr.atimensec) == stat.st_atime_ns
    assert nanoseconds(attr.mtime, attr.mtimensec) == stat.st_mtime_ns
    assert nanoseconds(attr.ctime, attr.ctimensec) == stat.st_ctime_ns
    assert attr.rdev == pack_rdev(stat.st_rdev)


def nanoseconds(seconds: int, nsec: int) -> int:
    """A time of FUSE's; the seconds are signed, though the field is not."""
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * 10**9 + nsec


def pack_rdev(rdev: int) -> int:
    """A device number as FUSE codes it."""
    minor = os.minor(rdev)
    return (minor & 0xFF) | os.major(rdev) << 8 | (minor & ~0xFF) << 12


@contextmanager
def raises(code: int) -> Iterator[None]:
    """The block must raise OSError with errno `code`."""
    try:
        yield
    except OSError as error:
        assert error.errno == code, f"{os.strerror(error.errno or 0)}, expected {os.strerror(code)}"
    else:
        raise AssertionError(f"no error, expected {os.strerror(code)}")


def error_of(call: Callable[[], object]) -> int:
    """The errno of a call; 0 when it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0
