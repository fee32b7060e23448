"""Reading past the page cache: any range, on file systems that can do it and on others."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from rafs.disk_read import DiskFile

CONTENT = random.Random(4).randbytes(50_001)


@pytest.fixture(params=["disk", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file" if request.param == "disk" else Path(f"/dev/shm/vhostfs-test-{os.getpid()}")
    path.write_bytes(CONTENT)
    request.addfinalizer(lambda: path.unlink(missing_ok=True))
    return path


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (0, 4096), (1, 4096), (4095, 2), (8192, 16_384), (100, 40_000), (50_000, 1)]
)
def test_any_range(path: Path, offset: int, size: int) -> None:
    with DiskFile(path) as file:
        assert file.read(offset, size) == CONTENT[offset : offset + size]


def test_the_end(path: Path) -> None:
    with DiskFile(path) as file:
        assert file.read(49_000, 5000) == CONTENT[49_000:]
        assert file.read(50_001, 10) == b"" and file.read(90_000, 10) == b""


def test_the_file_that_is_meant(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(CONTENT)
    other.write_bytes(CONTENT)
    with one.open("rb") as file:
        DiskFile(one, same_as=file.fileno()).close()
        with pytest.raises(FileNotFoundError):
            DiskFile(other, same_as=file.fileno())
