"""The data plane without a socket: a built image, its cache in memfds, a Device, and drivers on its queues.

`Cache` holds the files of one blob and fills them from the finished blob, as a fetcher would; `Rig` puts the
parts together and closes them in the right order. Guest memory is a memfd of the test's own process.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from native.chunk_table import CHUNK_TABLE_MAGIC
from native.dataplane import CHUNK_RECORD, Blob, ChunkStore, Device, MemoryRegion
from native.rafs_v6 import RAFS_CHUNK_MAP_HEADER_SIZE, RAFS_CHUNK_MAP_MAGIC, RAFS_CHUNK_MAP_MAGIC2
from native.records import Record
from rafs.blob_meta import BlobMeta, pack_meta_file, unpack_section
from rafs.blob_record import BlobRecord
from rafs.build import BuildOptions, build_image
from rafs.chunk_table import BootstrapChunks, TableMeta
from rafs.codec import decode_chunk
from rafs.image import Image
from virtqueue.driver import Buffer, Driver
from virtqueue.features import VirtioFeature
from virtqueue.fuse_client import FuseClient
from virtqueue.guest_memory import GuestMemory, GuestRegion

MAP_HEADER = Record("rafs_chunk_map_header")
CI_HEADER = Record("rafs_ci_header")
BOTH_RING_FEATURES = VirtioFeature.RING_EVENT_IDX | VirtioFeature.RING_INDIRECT_DESC
DEADLINE_S = 10.0


@dataclass(frozen=True)
class BuiltImage:
    """A source tree and the image that was built of it."""

    source: Path
    bootstrap: Path
    blob_dir: Path

    @classmethod
    def build(cls, top: Path, *, chunk_size: int, compressor: str = "none") -> BuiltImage:
        """Build `top`/source into `top`."""
        options = BuildOptions(compressor=compressor, chunk_size=chunk_size)
        build_image(top / "source", top / "bootstrap", top / "blobs", options)
        return cls(top / "source", top / "bootstrap", top / "blobs")

    def as_v5(self, top: Path) -> BuiltImage:
        """The same source as RAFS v5, built into `top`."""
        options = BuildOptions(compressor="zstd", chunk_size=64 << 10, fs_version=5)
        build_image(self.source, top / "bootstrap", top / "blobs", options)
        return BuiltImage(self.source, top / "bootstrap", top / "blobs")


class Cache:
    """The cache files of one blob (specification, section 6), and the blob that fills them."""

    def __init__(
        self,
        store: ChunkStore,
        record: BlobRecord,
        stored: bytes,
        data_path: Path | None = None,
        chunks: BootstrapChunks | None = None,
    ) -> None:
        if chunks is None:
            section = stored[record.ci_offset : record.ci_offset + record.ci_compressed_size + 4096]
            meta_file = pack_meta_file(*unpack_section(record, section))
        else:
            meta_file = _table(record, chunks)
        meta = BlobMeta if chunks is None else TableMeta
        bitmap_size = (record.chunk_count + 7) // 8
        header = MAP_HEADER.pack(magic=RAFS_CHUNK_MAP_MAGIC, magic2=RAFS_CHUNK_MAP_MAGIC2)
        self.record = record
        self.meta = meta(record, lambda offset, length: meta_file[offset : offset + length])
        self._stored = stored
        self._fds = [self._data(data_path), _memfd(header + bytes(bitmap_size)), _memfd(meta_file)]
        self.data_fd, chunk_map_fd, meta_fd = self._fds
        os.ftruncate(self.data_fd, record.uncompressed_size)
        assert os.fstat(chunk_map_fd).st_size == RAFS_CHUNK_MAP_HEADER_SIZE + bitmap_size
        self.blob = Blob(
            store,
            data_fd=self.data_fd,
            chunk_map_fd=chunk_map_fd,
            meta_fd=meta_fd,
            chunk_count=record.chunk_count,
            uncompressed_size=record.uncompressed_size,
        )

    @staticmethod
    def _data(path: Path | None) -> int:
        if path is None:
            return _memfd(b"")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, first: int, count: int) -> None:
        """Store the chunks' data; the READY bits stay as they are."""
        for chunk in self.meta.chunks(first, count):
            stored = self._stored[chunk.compressed_offset : chunk.compressed_end]
            if chunk.is_compressed:
                stored = bytes(
                    decode_chunk(stored, compressor=self.record.compressor, size=chunk.uncompressed_size)
                )
            os.pwrite(self.data_fd, stored, chunk.uncompressed_offset)

    def fill(self, first: int = 0, count: int | None = None) -> None:
        """Store the chunks' data, and complete them."""
        count = self.record.chunk_count - first if count is None else count
        self.write(first, count)
        self.blob.complete(first, count)

    def close(self) -> None:
        self.blob.close()
        for fd in self._fds:
            os.close(fd)


def _table(record: BlobRecord, chunks: BootstrapChunks) -> bytes:
    """The file of a v5 blob's records (rafs/chunk_table.py), here of one image that has them all."""
    assert len(chunks.records) == record.chunk_count * CHUNK_RECORD.size
    header = CI_HEADER.pack(magic=CHUNK_TABLE_MAGIC, entries=record.chunk_count, magic2=CHUNK_TABLE_MAGIC)
    return chunks.records.ljust(-(-len(chunks.records) // 4096) * 4096, b"\0") + header


def _memfd(content: bytes) -> int:
    fd = os.memfd_create("cache", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd


class SharedGuestMemory(GuestMemory):
    """Guest memory in which several threads allocate."""

    def __init__(self, regions: Sequence[tuple[int, int]]) -> None:
        self._lock = threading.Lock()
        super().__init__(regions)

    def allocate(self, size: int, *, region: GuestRegion | None = None) -> int:
        with self._lock:
            return super().allocate(size, region=region)

    def free(self, gpa: int) -> None:
        with self._lock:
            super().free(gpa)


class Rig:
    """A device that serves `image`, guest memory, and what is attached to its queues. A context manager.

    `warm`: every chunk is READY from the start. `data_path`: keep the data file there, not in a memfd.
    `path`: where the image is mounted; None: nowhere yet. Any but "/" makes a session of many mounts.
    Nothing is started before `attach` or `client`.
    """

    def __init__(
        self,
        image: BuiltImage,
        *,
        warm: bool = True,
        num_request_queues: int = 1,
        miss_timeout_ms: int = 30_000,
        poll_us: int = 50,
        regions: Sequence[tuple[int, int]] = ((0x10_0000, 64 << 20),),
        data_path: Path | None = None,
        path: str | None = "/",
    ) -> None:
        self.store = ChunkStore()
        self.image = Image(image.bootstrap)
        self.caches = []
        for index in range(self.image.blob_count):
            record = self.image.blob(index)
            stored = (image.blob_dir / record.blob_id).read_bytes()
            told = self.image.bootstrap_chunks(index)
            chunks = told if isinstance(told, BootstrapChunks) else None
            self.caches.append(Cache(self.store, record, stored, data_path, chunks))
        if warm:
            for cache in self.caches:
                cache.fill()
        self.device = Device(
            self.store,
            num_request_queues=num_request_queues,
            miss_timeout_ms=miss_timeout_ms,
            poll_us=poll_us,
            shared=path != "/",
        )
        if path is not None:
            self.mount(path)
        self.memory = SharedGuestMemory(regions)
        self.drivers: list[Driver] = []
        self.share()

    def mount(self, path: str) -> None:
        """Mount the image, once more maybe."""
        self.device.mount_image(path, self.image, [cache.blob for cache in self.caches])

    @property
    def cache(self) -> Cache:
        """Of the only blob."""
        (cache,) = self.caches
        return cache

    def share(self) -> None:
        """Give the device the regions that guest memory has now."""
        self.device.set_mem_table(
            [MemoryRegion(r.gpa, r.size, r.user_addr, r.mmap_offset, r.fd) for r in self.memory.regions]
        )

    def driver(self, *, size: int = 128, features: int = BOTH_RING_FEATURES, base: int = 0) -> Driver:
        """A driver of this rig's memory; the rig closes it."""
        driver = Driver(self.memory, size, virtio_features=features, base=base)
        self.drivers.append(driver)
        return driver

    def attach(
        self, index: int, driver: Driver, *, base: int = 0, kick: bool = True, enable: bool = True
    ) -> None:
        """Configure and start vring `index` in the order that front-ends use."""
        self.device.set_features(indirect=driver.indirect, event_idx=driver.event_idx)
        self.device.set_vring_num(index, driver.size)
        self.device.set_vring_base(index, base)
        self.addresses(index, driver)
        self.device.set_vring_call(index, os.dup(driver.call_fd))
        self.device.set_vring_err(index, os.dup(driver.err_fd))
        self.device.set_vring_kick(index, os.dup(driver.kick_fd) if kick else None)
        if enable:
            self.device.set_vring_enable(index, True)

    def addresses(self, index: int, driver: Driver) -> None:
        """SET_VRING_ADDR."""
        user_addr = self.memory.user_addr
        self.device.set_vring_addr(
            index,
            desc=user_addr(driver.desc_gpa),
            used=user_addr(driver.used_gpa),
            avail=user_addr(driver.avail_gpa),
        )

    def client(
        self,
        index: int = 1,
        *,
        size: int = 128,
        features: int = BOTH_RING_FEATURES,
        base: int = 0,
        indirect: bool | None = None,
        init: bool = True,
        cut: Callable[[Buffer, int], list[Buffer]] | None = None,
    ) -> FuseClient:
        """A FUSE client on a vring that is started for it, with a session unless `init` is False."""
        driver = self.driver(size=size, features=features, base=base)
        self.attach(index, driver, base=base)
        use_indirect = driver.indirect if indirect is None else indirect
        client = FuseClient(driver, indirect=use_indirect, timeout=DEADLINE_S, cut=cut)
        if init:
            client.init()
        return client

    def wait_upcalls(self, count: int = 1) -> list[tuple[int, int, int]]:
        """Take upcalls until there are chunks for `count` of them, as the event loop does: on the eventfd."""
        taken: list[tuple[int, int, int]] = []
        while len(taken) < count:
            if not is_readable(self.store.event_fd, DEADLINE_S):
                raise TimeoutError(f"{len(taken)} upcalls, {count} expected")
            taken += self.store.take()
        return taken

    def close(self) -> None:
        self.device.close()
        for cache in self.caches:
            cache.close()
        self.image.close()
        self.store.close()
        for driver in self.drivers:
            driver.close()
        self.memory.close()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_readable(fd: int, timeout: float) -> bool:
    """Wait until `fd` is readable; False after `timeout` seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class Fetcher(threading.Thread):
    """Fills chunks as they are asked for, and remembers each request. Use as a context manager."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig
        self.asked: list[tuple[int, int]] = []  # (first chunk, count)
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.rig.store.event_fd, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        while True:
            if any(fd == self._stop_fd for fd, _ in poll.poll()):
                return
            for upcall in self.rig.store.take():
                self.asked.append((upcall.first_chunk, upcall.chunk_count))
                self.rig.cache.fill(upcall.first_chunk, upcall.chunk_count)

    def chunks(self) -> list[int]:
        """Every chunk as often as it was asked for, sorted."""
        return sorted(chunk for first, count in self.asked for chunk in range(first, first + count))

    def __enter__(self) -> Fetcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._stop_fd, 1)
        self.join()
        os.close(self._stop_fd)


def until(condition: Callable[[], bool]) -> None:
    """Turn until something has happened; the GIL goes to others meanwhile. TimeoutError after a while."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        os.sched_yield()
