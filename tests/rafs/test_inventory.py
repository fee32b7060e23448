"""What lies in a cache directory, and its removal while others open it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rafs.cache_dir import CacheDir
from rafs.errors import CacheError
from rafs.inventory import is_in_use, remove_blob, take_inventory
from tests.fakes.blobs import BLOB_ID
from tests.rafs.test_cache import FAKE, RECORD, fill, opened, ready


def test_every_file_is_counted(tmp_path: Path) -> None:
    with opened(tmp_path) as blob:
        fill(blob, 0, 1, 2)
        blob.store_metadata("meta", bytes(5000), verified_on_use=False)
    (tmp_path / "vhostfs.lock").write_bytes(bytes(100))
    (tmp_path / f"{'cd' * 32}.blob.raw").write_bytes(bytes(10_000))
    found = take_inventory(tmp_path)
    assert found.bytes == sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir())
    assert found.other_bytes == (tmp_path / "vhostfs.lock").stat().st_blocks * 512
    assert found.blobs.keys() == {BLOB_ID, "cd" * 32}
    assert found.blobs[BLOB_ID].files["blob.meta"] == 8192
    assert found.blobs[BLOB_ID].last_used == (tmp_path / f"{BLOB_ID}.blob.meta").stat().st_mtime


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="nothing: No such file"):
        take_inventory(tmp_path / "nothing")


def test_a_blob_in_use_is_not_removed(tmp_path: Path) -> None:
    with opened(tmp_path) as one:
        fill(one, 0)
        with opened(tmp_path):
            assert is_in_use(tmp_path, BLOB_ID)
        assert not remove_blob(tmp_path, BLOB_ID)
        assert ready(tmp_path) == {0}
    assert not is_in_use(tmp_path, BLOB_ID)
    assert remove_blob(tmp_path, BLOB_ID)
    assert list(tmp_path.iterdir()) == []
    with opened(tmp_path) as again:
        assert not again.had_data
    assert ready(tmp_path) == set()


def test_another_process_is_seen_too(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from native.dataplane import BLOB_RECORD
from rafs.blob_record import BlobRecord
from rafs.cache_dir import CacheDir
record = BlobRecord.parse(BLOB_RECORD.parse(bytes.fromhex("{FAKE.entry.hex()}")))
blob = CacheDir(Path(sys.argv[1])).open(record)
print("open", flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        assert not remove_blob(tmp_path, BLOB_ID)
        process.kill()
        process.wait()
        assert remove_blob(tmp_path, BLOB_ID)


def test_what_is_left_of_a_blob_goes(tmp_path: Path) -> None:
    names = ["blob.data.chunk_map", "blob.meta", "blob.digest.vhostfs-new", "blob.data.unsynced"]
    for name in names:
        (tmp_path / f"{BLOB_ID}.{name}").touch()
    (tmp_path / f"{'cd' * 32}.blob.meta").touch()
    assert remove_blob(tmp_path, BLOB_ID)
    assert [path.name for path in tmp_path.iterdir()] == [f"{'cd' * 32}.blob.meta"]


def test_removing_while_others_open(tmp_path: Path) -> None:
    """Whoever has it open has files that are there and fit together."""
    wrong: list[str] = []
    ending = threading.Event()

    def use() -> None:
        for _ in range(300):
            blob = CacheDir(tmp_path, boot_id="boot-1").open(RECORD)
            for path, fd in ((blob.data_path, blob.data_fd), (blob.chunk_map_path, blob.chunk_map_fd)):
                if not path.exists() or not os.path.samestat(path.stat(), os.fstat(fd)):
                    wrong.append(f"{path.name} is not the open one")
            blob.close()

    def remove() -> None:
        while not ending.is_set():
            remove_blob(tmp_path, BLOB_ID)

    remover, users = threading.Thread(target=remove), [threading.Thread(target=use) for _ in range(2)]
    for thread in (remover, *users):
        thread.start()
    for thread in users:
        thread.join()
    ending.set()
    remover.join()
    assert wrong == []
