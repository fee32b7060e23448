"""Partition tables: what sfdisk wrote is read, and what is damaged or lies is refused."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.backend.gpt import GptError, Partition, parse_gpt
from tests.fakes.gpt_disk import BASIC_DATA, MIB, NewPartition, make_disk, partitions_of

PARTITIONS = [
    NewPartition("ab" * 16, UUID("cd" * 16), 2 * MIB),
    NewPartition("größe", UUID(int=7), 512, BASIC_DATA),
    NewPartition("", UUID(int=8), 4096),
]
DISK_SIZE = 4 * MIB
HEADER_SIZE = 92
ENTRY_SIZE = 128


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gpt") / "disk"
    make_disk(path, PARTITIONS, DISK_SIZE)
    return path.read_bytes()


def parse(disk: bytes) -> list[Partition]:
    return parse_gpt(lambda offset, length: disk[offset : offset + length], len(disk))


def changed(disk: bytes, offset: int, content: bytes) -> bytes:
    return disk[:offset] + content + disk[offset + len(content) :]


def without_backup(disk: bytes) -> bytes:
    return changed(disk, len(disk) - 512, bytes(512))


def with_header(disk: bytes, form: str, offset: int, value: int) -> bytes:
    """The disk without a backup, a number of its header set, and the checksum made to fit."""
    header = bytearray(disk[512 : 512 + HEADER_SIZE])
    struct.pack_into(form, header, offset, value)
    header[16:20] = bytes(4)
    size = min(struct.unpack_from("<I", header, 12)[0], 512)
    raw = bytes(header) + disk[512 + HEADER_SIZE : 1024]
    header[16:20] = struct.pack("<I", zlib.crc32(raw[:size]))
    return without_backup(changed(disk, 512, bytes(header)))


def with_entry(disk: bytes, offset: int, value: int) -> bytes:
    """The same with a 64-bit number of the first partition set."""
    table = bytearray(disk[1024 : 1024 + 128 * ENTRY_SIZE])
    struct.pack_into("<Q", table, offset, value)
    return with_header(changed(disk, 1024, bytes(table)), "<I", 88, zlib.crc32(table))


def test_what_sfdisk_wrote(tmp_path: Path) -> None:
    make_disk(tmp_path / "disk", PARTITIONS)
    found = parse((tmp_path / "disk").read_bytes())
    assert [(part.name, part.guid, part.size, part.type_guid) for part in found] == PARTITIONS
    expected = partitions_of(tmp_path / "disk")
    assert [
        (part.offset // 512, part.size // 512, str(part.guid), str(part.type_guid)) for part in found
    ] == [(part["start"], part["size"], part["uuid"].lower(), part["type"].lower()) for part in expected]
    assert [part.number for part in found] == [1, 2, 3]


def test_the_backup_serves_where_the_primary_is_damaged(disk: bytes) -> None:
    expected = parse(disk)
    for offset in (512, 512 + 24, 512 + 80, 1024 + 32, 1024 + ENTRY_SIZE + 60):
        assert parse(changed(disk, offset, b"\xff")) == expected


def test_any_damage_is_found(disk: bytes) -> None:
    rng = random.Random(1)
    table = range(1024, 1024 + 128 * ENTRY_SIZE)
    for offset in [*range(512, 512 + HEADER_SIZE), *rng.sample(table, 300)]:
        flipped = bytes([disk[offset] ^ 1 << rng.randrange(8)])
        with pytest.raises(GptError):
            parse(without_backup(changed(disk, offset, flipped)))


@pytest.mark.parametrize(
    ("form", "offset", "value", "reason"),
    [
        ("<I", 8, 0x20000, "another revision"),
        ("<I", 12, 64, "another revision or size"),
        ("<I", 12, 1 << 30, "another revision or size"),
        ("<Q", 24, 9, "says that it is in block 9"),
        ("<Q", 40, 1 << 40, "beyond the end"),
        ("<Q", 48, 1 << 63, "beyond the end"),
        ("<Q", 72, 1 << 60, "beyond the end"),
        ("<Q", 72, DISK_SIZE // 512 - 1, "does not fit its checksum"),
        ("<I", 80, 0xFFFFFFFF, "a table of 4294967295 entries"),
        ("<I", 84, 0, "entries of 0 bytes"),
        ("<I", 84, 4096, "entries of 4096 bytes|does not fit"),
        ("<I", 88, 1, "does not fit its checksum"),
    ],
)
def test_headers_that_lie(disk: bytes, form: str, offset: int, value: int, reason: str) -> None:
    with pytest.raises(GptError, match=reason):
        parse(with_header(disk, form, offset, value))


@pytest.mark.parametrize(
    ("offset", "value"), [(32, 1), (32, 1 << 40), (40, 1 << 63), (40, 2047), (40, DISK_SIZE // 512 - 1)]
)
def test_partitions_outside_the_disk(disk: bytes, offset: int, value: int) -> None:
    with pytest.raises(GptError, match="partition 1 has the blocks"):
        parse(with_entry(disk, offset, value))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 600, 1023, 4096, 1 << 20])
def test_disks_without_a_table(size: int) -> None:
    with pytest.raises(GptError, match="signature"):
        parse(bytes(size))


def test_a_disk_that_was_cut_off(disk: bytes) -> None:
    for size in (520, 1000, 1024, 2000, 1 << 20):
        with pytest.raises(GptError):
            parse(disk[:size])


@given(st.binary(max_size=600))
def test_rubbish_is_refused(rubbish: bytes) -> None:
    with pytest.raises(GptError):
        parse(bytes(512) + b"EFI PART" + rubbish)


def test_blocks_of_4096_bytes() -> None:
    """What sfdisk makes only on a device of that kind: laid out by hand."""
    entry = struct.pack("<16s16sQQQ72s", b"\1" * 16, b"\2" * 16, 8, 9, 0, "name".encode("utf-16-le"))
    table = entry.ljust(4096, b"\0")
    numbers = (1, 15, 6, 14, b"\3" * 16, 2, 32, 128, zlib.crc32(table))
    unsummed = struct.pack("<8s4sIIIQQQQ16sQIII", b"EFI PART", b"\0\0\1\0", 92, 0, 0, *numbers)
    header = unsummed[:16] + struct.pack("<I", zlib.crc32(unsummed)) + unsummed[20:]
    disk = (bytes(4096) + header.ljust(4096, b"\0") + table).ljust(16 * 4096, b"\0")
    [found] = parse(disk)
    assert (found.name, found.offset, found.size) == ("name", 8 * 4096, 2 * 4096)
