"""What is unpacked is the tree that the image was built of, as a directory and through GNU tar."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

import rafs
from native.dataplane import Dirent
from rafs.build import TarSource, build_image
from rafs.errors import BlobCorrupt, BlobNotFound
from rafs.tools.unpack import unpack_directory
from rafs.tools.unpack_tar import unpack_tar
from tests.rafs.tools.conftest import Built
from tests.trees import describe, differences


def test_a_directory_is_the_source(built: Built, tmp_path: Path) -> None:
    target = tmp_path / "target"
    heard: list[int] = []
    with built.open() as image:
        result = unpack_directory(image, target, progress=heard.append)
    assert result.warnings == []
    assert differences(describe(built.source), describe(target)) == []
    assert sum(heard) == result.data_size > 1 << 20


def test_a_tar_archive_is_the_source(built: Built, tmp_path: Path) -> None:
    archive, target = tmp_path / "image.tar", tmp_path / "target"
    with built.open() as image, archive.open("wb") as file:
        result = unpack_tar(image, file)
    assert result.warnings == ["tar has no sockets: '/special/socket' is left out"]
    target.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-unknown-keyword"]
    subprocess.run(["tar", "-xpf", archive, "-C", target, *options], check=True, capture_output=True)
    wrong = differences(describe(built.source), describe(target))
    assert wrong == ["missing: b'special/socket'"]


def test_upstream_v5(upstream: Built, tmp_path: Path) -> None:
    with upstream.open() as image:
        result = unpack_directory(image, tmp_path / "target", jobs=1)
        assert result.names == 53 and not result.warnings
        for path, inode in image.walk():
            made = os.lstat(os.fsencode(tmp_path / "target") + path)
            assert (made.st_mode, made.st_mtime) == (inode.mode, inode.mtime)
            if stat.S_ISREG(inode.mode):
                assert made.st_size == inode.size and made.st_nlink == inode.nlink
                content = (tmp_path / "target" / os.fsdecode(path[1:])).read_bytes()
                assert content == image.read(path)


def test_what_exists_is_left_alone(upstream: Built, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with upstream.open() as image, pytest.raises(FileExistsError):
        unpack_directory(image, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_blob_that_is_missing_or_wrong(upstream: Built, tmp_path: Path) -> None:
    broken = Built(upstream.source, upstream.bootstrap, tmp_path / "blobs")
    with broken.open() as image, pytest.raises(BlobNotFound, match="no such file in"):
        unpack_directory(image, tmp_path / "a")
    blob = next(path for path in upstream.blobs.iterdir() if path.name.startswith("7334"))
    broken.blobs.mkdir()
    content = bytearray(blob.read_bytes())
    content[3_000_000] ^= 1
    (broken.blobs / blob.name).write_bytes(content)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with broken.open() as image, pytest.raises(BlobCorrupt, match="blake3 is"):
        unpack_directory(image, tmp_path / "b")
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_a_name_that_is_there_twice(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First as a symlink, then as a directory: it is refused, and the link is not followed."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    with built.open() as image:
        root, names, link = image.image.root_nid, image.find("/names"), image.find("/symlinks/short")
        entries = [Dirent(b"twice", link, 7), Dirent(b"twice", names, 2)]
        monkeypatch.setattr(image.image, "readdir", lambda nid: iter(entries if nid == root else ()))
        monkeypatch.setattr(image.image, "readlink", lambda nid: os.fsencode(outside))
        with pytest.raises(FileExistsError):
            unpack_directory(image, target)
    assert (target / "twice").is_symlink() and list(outside.iterdir()) == []


def test_a_directory_that_contains_itself(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with built.open() as image:
        entries = [Dirent(b"again", image.image.root_nid, 2)]
        monkeypatch.setattr(image.image, "readdir", lambda nid: iter(entries))
        with pytest.raises(OSError, match="a directory with another name too"):
            unpack_directory(image, tmp_path / "target")
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before


def test_paths_longer_than_a_call_takes(tmp_path: Path) -> None:
    """Hard links at a depth that only many calls reach; made by a builder that goes there step by step."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        deep = "/".join(["d" * 200] * 30)
        first = tarfile.TarInfo(f"{deep}/first")
        first.size = 4
        tar.addfile(first, io.BytesIO(b"data"))
        for name in (f"{deep}/second", "third"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, f"{deep}/first"
            tar.addfile(link)
    archive.seek(0)
    build_image(TarSource(archive, "archive"), tmp_path / "boot", tmp_path / "blobs")
    with rafs.open(tmp_path / "boot", tmp_path / "blobs") as image:
        result = unpack_directory(image, tmp_path / "target")
    assert (result.names, result.data_size) == (33, 4)
    assert (tmp_path / "target" / "third").read_bytes() == b"data"
    assert (tmp_path / "target" / "third").stat().st_nlink == 3
    shutil.rmtree(tmp_path / "target")
