"""`diff` and `stat`: of images whose differences are known, by hand."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from rafs.build import BuildOptions, build_image
from rafs.image import Image
from rafs.tools.diff import Difference, diff_images
from rafs.tools.stat import stat_images

CHUNK = 4096
DATA = random.Random(3).randbytes(10 * CHUNK)
NEW = random.Random(4).randbytes(2 * CHUNK)


@pytest.fixture(params=[5, 6])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """old, new (built alone) and next (built with old as dictionary), in both versions."""
    version = request.param
    old, new = tmp_path / "old-source", tmp_path / "new-source"
    for root in (old, new):
        (root / "dir").mkdir(parents=True)
        (root / "same").write_bytes(DATA)
        (root / "dir" / "grown").write_bytes(DATA[: 2 * CHUNK])
        (root / "dir" / "owned").write_bytes(b"owned")
        (root / "link").symlink_to("same")
        os.mkfifo(root / "kind")
    (old / "gone").write_bytes(b"gone")
    (new / "more").write_bytes(NEW[:CHUNK])
    (new / "more-again").write_bytes(NEW[:CHUNK])
    (new / "dir" / "grown").write_bytes(DATA[: 2 * CHUNK] + NEW[CHUNK:])
    (new / "dir" / "owned").chmod(0o600)
    (new / "link").unlink()
    (new / "link").symlink_to("dir")
    (new / "kind").unlink()
    (new / "kind").mkdir()
    for root in (old, new):
        for path in (*root.rglob("*"), root):
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)
    options = {"compressor": "none", "chunk_size": CHUNK, "fs_version": version}
    for name, source, more in (
        ("old", old, {}),
        ("new", new, {}),
        ("next", new, {"chunk_dict": tmp_path / "old"}),
    ):
        build_image(source, tmp_path / name, tmp_path / "blobs", BuildOptions(**options, **more))  # type: ignore[arg-type]
    return tmp_path


def diff(folder: Path, old: str, new: str) -> Difference:
    images = Image(folder / old), Image(folder / new)
    try:
        return diff_images(*images)
    finally:
        for image in images:
            image.close()


CHANGES = {
    b"/dir/grown": "data",
    b"/dir/owned": "attributes",
    b"/gone": "removed",
    b"/kind": "type",
    b"/link": "data",
    b"/more": "added",
    b"/more-again": "added",
}


def test_files_and_what_is_pulled(folder: Path) -> None:
    result = diff(folder, "old", "next")
    assert {change.path: change.what for change in result.changes if change.path != b"/"} == CHANGES
    assert {change.path: change.pulled for change in result.changes if change.pulled} == {
        b"/dir/grown": CHUNK,
        b"/more": CHUNK,
    }
    assert (result.pulled_size, result.pulled_chunks, result.repeated_size) == (2 * CHUNK, 2, 0)
    assert result.bootstrap_size == (folder / "next").stat().st_size and len(result.new_blobs) == 1


def test_without_a_dictionary_all_is_pulled(folder: Path) -> None:
    result = diff(folder, "old", "new")
    assert {change.path for change in result.changes} - {b"/"} == CHANGES.keys()
    assert result.pulled_size == result.image_size == 12 * CHUNK + len(b"owned")
    assert result.repeated_size == 10 * CHUNK + len(b"owned")


def test_an_image_and_itself(folder: Path) -> None:
    result = diff(folder, "new", "new")
    assert result.changes == [] and result.pulled_size == 0 and result.unchanged == 9
    alike = diff(folder, "new", "next")
    assert alike.changes == [] and alike.pulled_size == alike.repeated_size == 12 * CHUNK + len(b"owned")


def test_other_chunk_sizes_cannot_be_compared(folder: Path, tmp_path: Path) -> None:
    build_image(folder / "new-source", tmp_path / "large", tmp_path / "blobs", BuildOptions(chunk_size=8192))
    result = diff(folder, "new", "large")
    changed = {change.path for change in result.changes}
    assert changed == {b"/same", b"/dir/grown", b"/dir/owned", b"/more", b"/more-again"}


def test_stat(folder: Path) -> None:
    images = [(name, Image(folder / name)) for name in ("old", "new", "next")]
    result = stat_images(images)
    old, new, after = result.images
    small = len(b"owned") + len(b"gone")
    assert (old.chunks, old.distinct_chunks, old.stored_size) == (14, 12, 10 * CHUNK + small)
    assert new.new_stored_size == new.stored_size == 12 * CHUNK + 5
    assert new.new_stored_size_with_dictionary == 2 * CHUNK
    assert (after.new_stored_size, after.new_stored_size_with_dictionary) == (2 * CHUNK, 0)
    assert result.blobs == 3 and result.stored_size == 24 * CHUNK + small + 5
    assert result.dictionary_saves == result.stored_size - (12 * CHUNK + small)
    for _, image in images:
        image.close()
