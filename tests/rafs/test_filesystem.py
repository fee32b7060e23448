"""`rafs.open`: walk, stat and read, of upstream's images and of ours."""

from __future__ import annotations

import errno
import hashlib
import io
from pathlib import Path

import pytest

import rafs
from rafs.backend import LocalBackend
from rafs.build import BuildOptions, build_image
from rafs.errors import BlobNotFound, ImageCorrupt
from rafs.filesystem import Filesystem

DATA = bytes(range(256)) * 100


@pytest.fixture
def image(tmp_path: Path) -> Filesystem:
    source = tmp_path / "source"
    (source / "dir").mkdir(parents=True)
    (source / "file").write_bytes(DATA)
    (source / "dir" / "empty").touch()
    (source / "link").symlink_to("file")
    build_image(source, tmp_path / "boot", tmp_path / "blobs", BuildOptions(chunk_size=4096))
    return rafs.open(tmp_path / "boot", tmp_path / "blobs")


def test_the_tree(image: Filesystem) -> None:
    with image:
        assert [path for path, _ in image.walk()] == [b"/", b"/dir", b"/dir/empty", b"/file", b"/link"]
        assert image.listdir() == [b"dir", b"file", b"link"] and image.listdir("/dir") == [b"empty"]
        assert image.stat("/file").size == image.stat(b"file").size == len(DATA)
        assert image.readlink("/link") == b"file" and image.xattrs("/file") == {}
        with pytest.raises(FileNotFoundError):
            image.stat("/other")
        with pytest.raises(NotADirectoryError):
            image.listdir("/file")
        with pytest.raises(IsADirectoryError):
            image.read("/dir")
        with pytest.raises(OSError) as caught:
            image.read("/link")
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError) as caught:
            image.readlink("/file")
        assert caught.value.errno == errno.EINVAL


def test_data(image: Filesystem) -> None:
    with image:
        assert image.read("/file") == DATA and image.read("/dir/empty") == b""
        for offset, size in ((0, 1), (4095, 2), (4096, 4096), (25_000, 10_000), (25_600, 1), (30_000, None)):
            assert image.read("/file", offset, size) == DATA[offset:][:size]
        chunks = list(image.chunks("/file"))
        assert [chunk.file_offset for chunk in chunks] == list(range(0, len(DATA), 4096))
        assert len({chunk.chunk_idx for chunk in chunks}) == 2  # all but the last are the same
        file = image.open("/file")
        assert file.seek(-10, io.SEEK_END) == len(DATA) - 10
        assert file.read() == DATA[-10:] and file.read(1) == b""
        assert file.seek(5) == 5 and file.read(6) == DATA[5:11] and file.seek(1, io.SEEK_CUR) == 12


def test_other_sources_of_blobs(image: Filesystem, tmp_path: Path) -> None:
    with image, rafs.open(tmp_path / "boot", LocalBackend(tmp_path / "blobs")) as by_backend:
        assert by_backend.read("/file") == DATA
    with rafs.open(tmp_path / "boot", [tmp_path / "none", tmp_path / "blobs"]) as by_list:
        assert by_list.read("/file", 7, 7) == DATA[7:14]
    with rafs.open(tmp_path / "boot") as bare:
        assert bare.stat("/file").size == len(DATA)
        with pytest.raises(BlobNotFound, match="as none was given"):
            bare.read("/file")


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"text" * 5000)
    with pytest.raises(ImageCorrupt, match="not a RAFS v6 bootstrap"):
        rafs.open(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        rafs.open(tmp_path / "other")


def test_upstream_v6(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "rafs-v6-2.2"
    with rafs.open(folder / "rafs-v6-2.2.boot", folder) as image:
        for name in ("/lib.rs", "/sync_io.rs"):
            (chunk,) = image.chunks(name)
            assert len(image.read(name)) == chunk.size == image.stat(name).size
        assert hashlib.sha256(image.read("/lib.rs")).hexdigest() != hashlib.sha256(b"").hexdigest()
