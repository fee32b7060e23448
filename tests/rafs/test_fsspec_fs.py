"""Images through fsspec: what other libraries ask of a file system."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from rafs.build import build_image

DATA = b"0123456789" * 1000


@pytest.fixture
def image(tmp_path: Path) -> Iterator[fsspec.AbstractFileSystem]:
    source = tmp_path / "source"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "file.txt").write_bytes(DATA)
    (source / "empty").touch()
    (source / "link").symlink_to("dir/file.txt")
    build_image(source, tmp_path / "boot", tmp_path / "blobs")
    found = fsspec.filesystem("rafs", bootstrap=tmp_path / "boot", blobs=tmp_path / "blobs")
    yield found
    found.close()


def test_listing(image: fsspec.AbstractFileSystem) -> None:
    assert image.ls("/", detail=False) == image.ls("", detail=False) == ["/dir", "/empty", "/link"]
    assert [entry["type"] for entry in image.ls("rafs:///")] == ["directory", "file", "link"]
    assert image.find("/") == ["/dir/file.txt", "/empty", "/link"]
    assert image.glob("/**/*.txt") == ["/dir/file.txt"]
    assert image.du("/dir") == len(DATA) and image.exists("/empty") and not image.exists("/none")
    assert image.isdir("/dir") and image.isfile("/dir/file.txt")
    info = image.info("/link")
    assert info["islink"] and info["destination"] == "dir/file.txt" and stat.S_ISLNK(info["mode"])
    with pytest.raises(FileNotFoundError):
        image.info("/dir/none")


def test_reading(image: fsspec.AbstractFileSystem) -> None:
    assert image.cat("/dir/file.txt") == DATA
    for start, end in ((None, None), (5, 9), (-4, None), (None, -9990), (9999, 20_000), (7, 3)):
        assert image.cat_file("/dir/file.txt", start, end) == DATA[start:end]
    with image.open("/dir/file.txt") as file:
        assert file.seek(9_000) == 9_000 and file.read(3) == b"012"
    with image.open("/dir/file.txt", "r") as file:
        assert file.read(4) == "0123"
    with pytest.raises(OSError, match="read-only"):
        image.open("/dir/file.txt", "wb")


def test_getting(image: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    image.get("/dir", str(tmp_path / "copy"), recursive=True)
    assert (tmp_path / "copy" / "file.txt").read_bytes() == DATA
    assert image.modified("/empty").timestamp() == pytest.approx(
        (tmp_path / "source" / "empty").stat().st_mtime
    )
