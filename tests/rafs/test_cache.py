"""The cache directory: layout, creation races, crash remnants, power loss, full disks."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from native.dataplane import BLOB_RECORD
from rafs.blob_meta import BlobMeta
from rafs.blob_record import BlobRecord
from rafs.cache import CachedBlob
from rafs.cache_dir import CacheDir
from rafs.errors import CacheError, CacheFull
from tests.fakes.blobs import BLOB_ID, make_blob, make_chunks

FAKE = make_blob(make_chunks([5000, 100, 9000, 4096] * 5))
RECORD = BlobRecord.parse(BLOB_RECORD.parse(FAKE.entry))
COUNT = len(FAKE.chunks)
MAP_SIZE = 4096 + (COUNT + 7) // 8
HEADER = struct.pack("<IIII", 0x424D4150, 1, 0x434D4150, 0).ljust(4096, b"\0")
CHUNKS = list(
    BlobMeta(RECORD, lambda offset, length: FAKE.meta_file[offset : offset + length]).chunks(0, COUNT)
)
DATA, MAP, MARKER = (f"{BLOB_ID}.blob.data{suffix}" for suffix in ("", ".chunk_map", ".unsynced"))


@contextmanager
def opened(directory: Path, boot_id: str = "boot-1") -> Iterator[CachedBlob]:
    blob = CacheDir(directory, boot_id=boot_id).open(RECORD)
    try:
        yield blob
    finally:
        blob.close()


def fill(blob: CachedBlob, *indices: int) -> None:
    """Write chunks and set their READY bits, as fetching does."""
    with blob.filling():
        for index in indices:
            blob.write(CHUNKS[index], FAKE.chunks[index])
            (byte,) = os.pread(blob.chunk_map_fd, 1, 4096 + index // 8)
            os.pwrite(blob.chunk_map_fd, bytes([byte | 0x80 >> index % 8]), 4096 + index // 8)


def ready(directory: Path) -> set[int]:
    bits = (directory / MAP).read_bytes()[4096:]
    return {index for index in range(COUNT) if bits[index // 8] & 0x80 >> index % 8}


def test_new_files_have_the_layout_of_the_specification(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "yet"
    with opened(cache) as blob:
        assert not blob.had_data and blob.in_doubt == 0
    assert (cache / DATA).stat().st_size == RECORD.uncompressed_size
    assert (cache / DATA).stat().st_blocks == 0
    assert (cache / MAP).read_bytes() == HEADER + bytes((COUNT + 7) // 8)
    assert sorted(path.name for path in cache.iterdir()) == [DATA, MAP]
    assert cache.stat().st_mode & 0o77 == 0 and (cache / DATA).stat().st_mode & 0o77 == 0


def test_a_warm_cache_of_nydusd_stays_warm(tmp_path: Path) -> None:
    (tmp_path / DATA).write_bytes(FAKE.image())
    bits = HEADER[:12] + struct.pack("<I", 0x4D4D4150) + HEADER[16:] + b"\xff\xff\xf0"
    (tmp_path / MAP).write_bytes(bits)
    with opened(tmp_path) as blob:
        assert blob.had_data
    assert (tmp_path / MAP).read_bytes() == bits
    assert (tmp_path / DATA).read_bytes() == FAKE.image()


def test_what_was_written_is_there_for_the_next_one(tmp_path: Path) -> None:
    with opened(tmp_path) as blob:
        fill(blob, 0, 3, 19)
        assert blob.settle()
    with opened(tmp_path) as blob:
        for index in (0, 3, 19):
            assert blob.read_unmarked(CHUNKS[index]) == FAKE.chunks[index]
        assert blob.read_unmarked(CHUNKS[10]) is None  # a hole
    assert ready(tmp_path) == {0, 3, 19}


# remnants and foreign files


@pytest.mark.parametrize("content", [b"", bytes(MAP_SIZE)])
def test_a_map_whose_creator_died_is_finished(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATA).write_bytes(bytes(RECORD.uncompressed_size))
    (tmp_path / MAP).write_bytes(content)
    with opened(tmp_path):
        pass
    assert (tmp_path / MAP).read_bytes() == HEADER + bytes(MAP_SIZE - 4096)


@pytest.mark.parametrize(
    "content",
    [
        bytes(MAP_SIZE - 1),
        bytes(MAP_SIZE + 1),
        bytes(4096) + b"\x80" + bytes(MAP_SIZE - 4097),
        b"\1" + bytes(MAP_SIZE - 1),
        HEADER[:8] + bytes(MAP_SIZE - 8),
    ],
)
def test_what_is_no_map_of_this_blob_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATA).write_bytes(bytes(RECORD.uncompressed_size))
    (tmp_path / MAP).write_bytes(content)
    with pytest.raises(CacheError, match=rf"{MAP} .*remove it"), opened(tmp_path):
        pass
    assert (tmp_path / MAP).read_bytes() == content


def test_a_data_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATA).write_bytes(bytes(RECORD.uncompressed_size + 1))
    with pytest.raises(CacheError, match=rf"{DATA} .*remove it"), opened(tmp_path):
        pass


@pytest.mark.parametrize("length", [None, 0, 4096])
def test_bits_without_their_data_file_are_not_believed(tmp_path: Path, length: int | None) -> None:
    """Garbage collection took the data file, or it was cut: the map that is left is about nothing."""
    with opened(tmp_path) as blob:
        fill(blob, *range(COUNT))
        assert blob.settle()
    if length is None:
        (tmp_path / DATA).unlink()
    else:
        os.truncate(tmp_path / DATA, length)
    old_map = (tmp_path / MAP).stat().st_ino
    with (tmp_path / MAP).open("rb"), opened(tmp_path):
        assert ready(tmp_path) == set()
        assert (tmp_path / MAP).stat().st_ino != old_map  # a process that has the old pair keeps it
        assert (tmp_path / DATA).stat().st_size == RECORD.uncompressed_size


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / DATA).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match=BLOB_ID), opened(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_cache_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="file/cache"):
        CacheDir(tmp_path / "file" / "cache")


def test_a_failed_open_leaks_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / MAP).mkdir()
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with pytest.raises(CacheError), opened(tmp_path):
        pass
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


# several processes

OPENER = f"""
import sys
from pathlib import Path
from native.dataplane import BLOB_RECORD
from rafs.blob_record import BlobRecord
from rafs.cache_dir import CacheDir
record = BlobRecord.parse(BLOB_RECORD.parse(bytes.fromhex("{FAKE.entry.hex()}")))
cache = CacheDir(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    blob = cache.open(record)
    print(blob.data_path.stat().st_ino, blob.chunk_map_path.stat().st_ino, flush=True)
"""


def test_processes_that_create_at_once_get_one_pair_of_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPENER, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for _ in range(20):
            for path in tmp_path.iterdir():
                path.unlink()
            answers = set()
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("open\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout is not None
                answers.add(process.stdout.readline())
            assert answers == {f"{(tmp_path / DATA).stat().st_ino} {(tmp_path / MAP).stat().st_ino}\n"}
            assert (tmp_path / MAP).read_bytes() == HEADER + bytes(MAP_SIZE - 4096)
    finally:
        for process in processes:
            process.communicate()


def test_a_data_file_deleted_while_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage collection strikes between the data file and the map."""
    open_map = CachedBlob._open_chunk_map
    strikes = iter([True, True, False])

    def collect(blob: CachedBlob) -> None:
        if next(strikes):
            (tmp_path / DATA).unlink()
        open_map(blob)

    monkeypatch.setattr(CachedBlob, "_open_chunk_map", collect)
    with opened(tmp_path) as blob:
        assert os.fstat(blob.data_fd).st_ino == (tmp_path / DATA).stat().st_ino
        assert os.fstat(blob.chunk_map_fd).st_ino == (tmp_path / MAP).stat().st_ino


# unclean stops


def test_the_marker_stands_from_the_first_write_to_settling(tmp_path: Path) -> None:
    with opened(tmp_path) as blob:
        assert not (tmp_path / MARKER).exists()
        fill(blob, 1)
        assert (tmp_path / MARKER).read_text().strip() == "boot-1"
        assert blob.is_unsettled
        with blob.filling():
            assert not blob.settle()  # a bit may be set any moment
            assert (tmp_path / MARKER).exists()
        assert blob.settle()
        assert not (tmp_path / MARKER).exists() and not blob.is_unsettled
        fill(blob, 2)
        assert (tmp_path / MARKER).exists()


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as blob:
        fill(blob, 1, 2)  # and no settle
    with opened(tmp_path) as blob:
        assert blob.in_doubt == 0
        assert ready(tmp_path) == {1, 2}
        assert blob.settle()
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("all_ready", [False, True])
def test_after_power_loss_no_bit_is_believed(tmp_path: Path, all_ready: bool) -> None:
    with opened(tmp_path) as blob:
        fill(blob, 1, 2, 7)
    # what the disk has after the machine went down: the bits, and of the data one chunk
    with (tmp_path / DATA).open("r+b") as file:
        file.seek(CHUNKS[2].uncompressed_offset)
        file.write(bytes(len(FAKE.chunks[2])))
    if all_ready:
        with (tmp_path / MAP).open("r+b") as file:
            file.seek(12)
            file.write(struct.pack("<I", 0x4D4D4150))
    with opened(tmp_path, boot_id="boot-2") as blob:
        assert blob.in_doubt == (COUNT if all_ready else 3)
        assert blob.had_data
        assert (tmp_path / MAP).read_bytes() == HEADER + bytes(MAP_SIZE - 4096)
        assert blob.read_unmarked(CHUNKS[1]) == FAKE.chunks[1]
        assert blob.read_unmarked(CHUNKS[2]) == bytes(len(FAKE.chunks[2]))  # the caller sees by the digest
        assert (tmp_path / MARKER).read_text().strip() == "boot-2"
    with opened(tmp_path, boot_id="boot-2") as blob:
        assert blob.in_doubt == 0


def test_power_loss_after_settling_costs_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as blob:
        fill(blob, 1, 2)
        assert blob.settle()
    with opened(tmp_path, boot_id="boot-2") as blob:
        assert blob.in_doubt == 0
    assert ready(tmp_path) == {1, 2}


def test_only_the_last_of_two_processes_removes_the_marker(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        fill(one, 1)
        fill(other, 2)
        assert not one.settle()
        assert (tmp_path / MARKER).exists()
        assert other.settle()
        assert not (tmp_path / MARKER).exists()


def test_an_orphan_leaves_the_marker_of_the_new_data_file(tmp_path: Path) -> None:
    with opened(tmp_path) as orphan:
        fill(orphan, 1)
        (tmp_path / DATA).unlink()
        with opened(tmp_path) as heir:
            fill(heir, 2)
        assert not orphan.settle()
        assert (tmp_path / MARKER).exists()


# disks that do not take it


def test_a_full_disk_is_an_error_of_this_host(tmp_path: Path) -> None:
    with opened(tmp_path) as blob:
        blob.prepare()
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, blob.data_fd)
        os.close(full)
        with pytest.raises(CacheFull, match=rf"cannot write .*{DATA}: No space left on device; free"):
            blob.write(CHUNKS[0], FAKE.chunks[0])


def test_a_write_that_stops_half_way_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data)[:1000], offset))
    with opened(tmp_path) as blob:
        fill(blob, 0, 2)
    assert (tmp_path / DATA).read_bytes()[: CHUNKS[3].uncompressed_offset] == (
        FAKE.image()[:5000].ljust(CHUNKS[2].uncompressed_offset, b"\0")
        + FAKE.chunks[2].ljust(CHUNKS[3].uncompressed_offset - CHUNKS[2].uncompressed_offset, b"\0")
    )


def test_without_a_marker_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path) as blob:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(CacheError, match=MARKER):
            blob.write(CHUNKS[0], FAKE.chunks[0])
    assert (tmp_path / DATA).stat().st_blocks == 0


def test_a_disk_that_fails_to_sync_is_distrusted_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path) as blob:
        fill(blob, 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(CacheError, match="to disk"):
                blob.settle()
    with opened(tmp_path) as blob:
        assert blob.in_doubt == 1


# metadata files


def test_metadata_is_replaced_as_a_whole(tmp_path: Path) -> None:
    with opened(tmp_path) as blob:
        assert blob.read_metadata("meta") is None
        blob.store_metadata("meta", b"one", verified_on_use=False)
        (tmp_path / f"{BLOB_ID}.blob.meta.vhostfs-new").write_bytes(b"left by a crash, and longer")
        with (tmp_path / f"{BLOB_ID}.blob.meta").open("rb") as reader:
            blob.store_metadata("meta", b"two", verified_on_use=True)
            assert reader.read() == b"one"
        assert blob.read_metadata("meta") == b"two"
    assert not list(tmp_path.glob("*-new"))
