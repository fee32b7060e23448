"""What is exported is an EROFS image: fsck.erofs finds no fault, and the kernel shows the tree."""

from __future__ import annotations

from pathlib import Path

import pytest

import rafs
from rafs.build import BuildError, BuildOptions, build_image
from rafs.tools.export import export_erofs
from tests import erofs
from tests.rafs.tools.conftest import Built
from tests.trees import describe, differences


@pytest.mark.parametrize("fs_version", [5, 6])
def test_the_kernel_sees_the_source(nasty: Path, tmp_path: Path, fs_version: int) -> None:
    options = BuildOptions("zstd", chunk_size=64 << 10, fs_version=fs_version)
    build_image(nasty, tmp_path / "boot", tmp_path / "blobs", options)
    heard: list[tuple[int, int]] = []
    with rafs.open(tmp_path / "boot", tmp_path / "blobs") as image:
        result = export_erofs(
            image, tmp_path / "boot", tmp_path / "image", progress=lambda *args: heard.append(args)
        )
    assert heard[-1] == (result.data_size, result.data_size)
    assert result.size == result.path.stat().st_size >= result.metadata_size + result.data_size
    erofs.fsck(tmp_path / "image", None)
    with erofs.mounted(tmp_path / "image", None) as point:
        assert differences(describe(nasty), describe(point)) == []


def test_the_same_bytes_and_no_other_files(built: Built, tmp_path: Path) -> None:
    for name, jobs in (("one", 1), ("two", 3)):
        with built.open() as image:
            export_erofs(image, built.bootstrap, tmp_path / name, jobs=jobs)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_an_empty_tree(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    build_image(source, tmp_path / "boot", tmp_path / "blobs")
    with rafs.open(tmp_path / "boot") as image:
        assert export_erofs(image, tmp_path / "boot", tmp_path / "image").chunks == 0
    erofs.fsck(tmp_path / "image", None)
    with erofs.mounted(tmp_path / "image", None) as point:
        assert differences(describe(source), describe(point)) == []


def test_an_image_without_owners(upstream: Built, tmp_path: Path) -> None:
    with upstream.open() as image, pytest.raises(BuildError, match="was built without owners"):
        export_erofs(image, upstream.bootstrap, tmp_path / "image")
    assert list(tmp_path.iterdir()) == []
