"""Blobs on disks: partitions by nydusd's two ways of naming them, and devices that are one blob."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from rafs.backend.localdisk import LocalDiskBackend
from rafs.errors import BlobCorrupt, BlobNotFound, BlobUnavailable, ImageCorrupt
from tests.fakes.blobs import make_blob, make_chunks
from tests.fakes.gpt_disk import BASIC_DATA, LINUX, MIB, NewPartition, make_disk, partitions_of, write_at

FIRST, SECOND = "ab" * 16 + "cd" * 16, "12" * 16 + "34" * 16


@asynccontextmanager
async def on(device: Path, *, disable_gpt: bool = False) -> AsyncIterator[LocalDiskBackend]:
    backend = LocalDiskBackend(device, disable_gpt=disable_gpt, threads=2)
    try:
        yield backend
    finally:
        await backend.close()


def disk_of(path: Path, blobs: dict[NewPartition, bytes]) -> Path:
    make_disk(path, list(blobs))
    for partition, content in zip(partitions_of(path), blobs.values(), strict=True):
        write_at(path, partition["start"] * 512, content)
    return path


def named(blob_id: str, size: int, kind: UUID = LINUX) -> NewPartition:
    """The partition of a blob; one of basic data has only the first half of the id in its name."""
    size = (size + 511) // 512 * 512
    return NewPartition(blob_id[:32], UUID(blob_id[32:]) if kind == LINUX else UUID(int=5), size, kind)


async def test_both_ways_to_name_a_partition(tmp_path: Path) -> None:
    first, second = os.urandom(70_000), os.urandom(1024)
    disk = disk_of(
        tmp_path / "disk",
        {named(FIRST, len(first)): first, named(SECOND, len(second), BASIC_DATA): second},
    )
    async with on(disk) as backend:
        assert await backend.read_range(FIRST, 0, len(first)) == first
        assert await backend.read_range(FIRST, 69_000, 1000) == first[69_000:]
        assert await backend.read_range(SECOND, 1000, 24) == second[1000:]
        assert await backend.blob_size(SECOND) == 1024
        # another blob with that beginning: a name of basic data has no more of an id
        assert await backend.blob_size(SECOND[:32] + "ff" * 16) == 1024
        with pytest.raises(BlobNotFound, match=f"the disk {disk} has no partition"):
            await backend.read_range(FIRST[:32] + "ff" * 16, 0, 1)
        with pytest.raises(ImageCorrupt):
            await backend.read_range(FIRST[:32], 0, 1)


async def test_a_read_ends_with_its_partition(tmp_path: Path) -> None:
    disk = disk_of(tmp_path / "disk", {named(FIRST, 512): b"x" * 512, named(SECOND, 512): b"y" * 512})
    async with on(disk) as backend:
        assert await backend.read_range(FIRST, 500, 600) == b"x" * 12
        assert await backend.read_range(FIRST, 1 << 40, 600) == b""


@pytest.mark.parametrize("padding", [0, 1, 511, 512, 70_000, MIB - 1024])
async def test_a_blob_ends_with_its_toc_and_not_with_its_partition(tmp_path: Path, padding: int) -> None:
    content = make_blob(make_chunks([4096, 5000])).content
    size = len(content) + padding
    disk = disk_of(tmp_path / "disk", {named(FIRST, size): content})
    async with on(disk) as backend:
        assert await backend.blob_size(FIRST) == len(content)
        assert await backend.read_range(FIRST, 0, len(content)) == content


async def test_a_device_that_is_one_blob(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"content")
    async with on(tmp_path / "disk", disable_gpt=True) as backend:
        assert await backend.blob_size(FIRST) == 7
        assert await backend.read_range(SECOND, 3, 100) == b"tent"


async def test_what_is_no_disk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(bytes(100_000))
    for name, reason in (
        ("fifo", "neither a block device"),
        ("none", "No such file"),
        (".", "neither a block"),
    ):
        async with on(tmp_path / name) as backend:
            with pytest.raises(BlobUnavailable, match=f"{FIRST}: cannot read the disk {tmp_path}.*{reason}"):
                await backend.read_range(FIRST, 0, 1)
    async with on(tmp_path / "file") as backend:
        with pytest.raises(BlobCorrupt, match=r"no valid partition table.*set disable_gpt"):
            await backend.read_range(FIRST, 0, 1)


async def test_two_partitions_of_one_name(tmp_path: Path) -> None:
    twin = named(SECOND, 512, BASIC_DATA)
    disk = disk_of(
        tmp_path / "disk", {twin: b"", twin._replace(guid=UUID(int=6)): b"", named(FIRST, 512): b"x"}
    )
    async with on(disk) as backend:
        assert await backend.read_range(FIRST, 0, 1) == b"x"
        with pytest.raises(BlobCorrupt, match="partitions 1 and 2 both have that name"):
            await backend.read_range(SECOND, 0, 1)


async def test_a_disk_that_appears_later(tmp_path: Path) -> None:
    async with on(tmp_path / "disk") as backend:
        with pytest.raises(BlobUnavailable):
            await backend.read_range(FIRST, 0, 1)
        disk_of(tmp_path / "disk", {named(FIRST, 512): b"x"})
        assert await backend.read_range(FIRST, 0, 1) == b"x"
