"""READ: the right bytes at every border, into buffers of any shape, from memory, page cache and disk."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.conftest import BIG_CHUNK, BIG_SIZE
from tests.native.rig import BuiltImage, Rig
from virtqueue import fuse_abi as abi
from virtqueue.driver import Buffer
from virtqueue.fuse_abi import Opcode
from virtqueue.fuse_client import FuseClient, cut_to_pieces

MAX_READ = 1 << 20


@pytest.fixture(scope="module")
def rig(plain: BuiltImage) -> Iterator[Rig]:
    with Rig(plain) as rig:
        yield rig


@pytest.fixture(scope="module")
def client(rig: Rig) -> FuseClient:
    return rig.client()


@pytest.fixture(scope="module")
def nodeid(client: FuseClient) -> int:
    return client.lookup(1, b"big").nodeid


def borders() -> list[int]:
    edges = {0, 4096, BIG_CHUNK, 2 * BIG_CHUNK, MAX_READ, 3 << 20, BIG_SIZE // 4096 * 4096, BIG_SIZE}
    return sorted({edge + delta for edge in edges for delta in (-1, 0, 1) if edge + delta >= 0})


@pytest.mark.parametrize("offset", borders())
def test_offsets_and_sizes_at_every_border(client: FuseClient, nodeid: int, big: bytes, offset: int) -> None:
    for size in (0, 1, 2, 4095, 4096, 4097, BIG_CHUNK - 1, BIG_CHUNK, BIG_CHUNK + 1, MAX_READ - 1, MAX_READ):
        assert client.read(nodeid, offset, size) == big[offset : offset + size]


@pytest.mark.parametrize("offset", [BIG_SIZE + 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_behind_the_end_is_nothing(client: FuseClient, nodeid: int, offset: int) -> None:
    assert client.read(nodeid, offset, 4096) == b""


def test_more_than_the_largest_read_is_cut(client: FuseClient, nodeid: int, big: bytes) -> None:
    assert client.read(nodeid, 1, MAX_READ + 4096) == big[1 : 1 + MAX_READ]
    body = abi.READ_IN.pack(0, 0, 0xFFFF_FFFF, 0, 0, 0)
    assert client.call(Opcode.READ, nodeid, body, reply_size=MAX_READ) == big[:MAX_READ]


def test_a_buffer_too_small_for_what_is_asked_for(client: FuseClient, nodeid: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        client.call(Opcode.READ, nodeid, abi.READ_IN.pack(0, 0, 4096, 0, 0, 0), reply_size=4095)


def test_nothing_is_written_past_the_data(rig: Rig, client: FuseClient, nodeid: int, big: bytes) -> None:
    driver, memory = client.driver, rig.memory
    request, reply = memory.allocate(4096), memory.allocate(16384)
    for offset, size in ((BIG_SIZE - 100, 8192), (0, 4096), (BIG_SIZE, 4096), (5, 1)):
        body = abi.IN_HEADER.pack(80, Opcode.READ, 2, nodeid, 0, 0, 0, 0, 0)
        memory.write(request, body + abi.READ_IN.pack(0, offset, size, 0, 0, 0))
        memory.write(reply, b"\xaa" * 16384)
        driver.submit([Buffer(request, 80)], [Buffer(reply, 16384)])
        written = driver.wait_used().written
        expected = big[offset : offset + size]
        assert written == abi.OUT_HEADER.size + len(expected)
        assert memory.read(reply + abi.OUT_HEADER.size, 16384 - 16) == expected.ljust(16384 - 16, b"\xaa")


@pytest.mark.parametrize("piece", [13, 16, 100, 512, 4096, 5000])
def test_scattered_into_pieces(plain: BuiltImage, big: bytes, piece: int) -> None:
    with Rig(plain) as rig:
        client = rig.client(size=1024, cut=cut_to_pieces(piece))
        nodeid = client.lookup(1, b"big").nodeid
        chosen = random.Random(piece)
        for _ in range(20):
            offset, size = chosen.randrange(BIG_SIZE), chosen.randrange(piece * 1000)
            assert (
                client.read(nodeid, offset, min(size, MAX_READ)) == big[offset : offset + min(size, MAX_READ)]
            )


def test_more_pieces_than_one_system_call_takes(plain: BuiltImage, big: bytes) -> None:
    """3,000 pieces that do not touch, over IOV_MAX, and not in the order of their addresses."""
    count, length, stride = 3000, 40, 64
    with Rig(plain) as rig:
        client = rig.client(size=4096)
        nodeid = client.lookup(1, b"big").nodeid
        driver, memory = client.driver, rig.memory
        request, reply = memory.allocate(4096), memory.allocate((count + 1) * stride)
        gpas = [reply + stride * (1 + index * 7 % count) for index in range(count)]
        body = abi.IN_HEADER.pack(80, Opcode.READ, 2, nodeid, 0, 0, 0, 0, 0)
        memory.write(request, body + abi.READ_IN.pack(0, 3, count * length, 0, 0, 0))
        driver.submit([Buffer(request, 80)], [Buffer(reply, 16)] + [Buffer(gpa, length) for gpa in gpas])
        assert driver.wait_used().written == 16 + count * length
        assert b"".join(memory.read(gpa, length) for gpa in gpas) == big[3 : 3 + count * length]


def test_buffers_across_regions(plain: BuiltImage, big: bytes) -> None:
    start, size = 0x10_0000, 4 << 20
    with Rig(plain, regions=[(start + i * size, size) for i in range(3)]) as rig:
        inner = rig.client()
        nodeid = inner.lookup(1, b"big").nodeid
        border = start + size
        for before in (1, 7, 16, 40, 79, 4096, 100_000):

            def place(length: int, before: int = before) -> int:
                return border - before if length == 80 else border + size - before

            client = FuseClient(inner.driver, indirect=True, place=place)
            client._unique = 1000 * before
            assert client.read(nodeid, 77, 200_000) == big[77:200_077]


def test_small_chunks_and_the_most_extents_a_read_can_have(tmp_path: Path) -> None:
    content = random.Random(9).randbytes((2 << 20) + 17)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(content)
    with Rig(BuiltImage.build(tmp_path, chunk_size=4096)) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"file").nodeid
        for offset in (0, 1, 4095, 4096, (1 << 20) + 16, 2 << 20):
            assert client.read(nodeid, offset, MAX_READ) == content[offset : offset + MAX_READ]


@pytest.mark.parametrize("compressor", ["lz4_block", "zstd"])
def test_images_with_other_compressors(tmp_path: Path, compressor: str) -> None:
    content = random.Random(9).randbytes(1000) * 300
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(content)
    with Rig(BuiltImage.build(tmp_path, chunk_size=65536, compressor=compressor)) as rig:
        client = rig.client()
        entry = client.lookup(1, b"file")
        assert client.read_file(entry.nodeid, entry.attr.size) == content


def test_what_is_on_disk_and_not_in_the_page_cache(plain: BuiltImage, big: bytes, tmp_path: Path) -> None:
    with Rig(plain, data_path=tmp_path / "data") as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        for _ in range(3):
            os.fsync(rig.cache.data_fd)
            os.posix_fadvise(rig.cache.data_fd, 0, 0, os.POSIX_FADV_DONTNEED)
            uniques = [client.submit_read(nodeid, i * 300_000, 300_000) for i in range(10)]
            for index, unique in enumerate(uniques):
                assert client.wait(unique) == big[index * 300_000 :][:300_000]
        counted = rig.device.statistics()
        assert counted["misses"] == counted["failed_misses"] == 0
        assert counted["requests"] == counted["replies"]


def test_a_data_file_shorter_than_its_ready_bits_say(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        os.ftruncate(rig.cache.data_fd, 100_000)
        assert client.read(nodeid, 0, 65536) == big[:65536]
        for offset in (65536, 1 << 20):
            with pytest.raises(OSError, match="Input/output"):
                client.read(nodeid, offset, 65536)


@pytest.mark.parametrize("size", [1, 2, 4, 128, 32768])
@pytest.mark.parametrize("features", [0, 1 << 28, 1 << 29, 3 << 28])
def test_queues_of_each_size_and_features(plain: BuiltImage, big: bytes, size: int, features: int) -> None:
    """Round the 16-bit index too."""
    with Rig(plain) as rig:
        indirect = bool(features & 1 << 28)
        if size < 4 and not indirect:
            size = 4  # a request has four descriptors
        client = rig.client(size=size, features=features, base=0xFFF8)
        nodeid = client.lookup(1, b"big").nodeid
        for offset in range(0, 40 * 50_000, 50_000):
            assert client.read(nodeid, offset, 999) == big[offset : offset + 999]
        uniques: list[tuple[int, int]] = []
        for offset in range(600):
            needed = 1 if indirect else 4
            while client.driver.room < needed:
                client.wait_any()
            uniques.append((offset, client.submit_read(nodeid, offset * 1000, 10)))
            if len(uniques) > 200:
                at, unique = uniques.pop(0)
                assert client.wait(unique) == big[at * 1000 :][:10]
        for at, unique in uniques:
            assert client.wait(unique) == big[at * 1000 :][:10]
        assert rig.device.statistics()["broken_rings"] == 0
