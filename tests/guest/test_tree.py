"""The guest sees the very tree that the image was built from: every name, attribute and byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest import treelist
from tests.guest.backend import Image, run_on_image
from tests.guest.vm import Guest
from tests.trees import describe, differences, make_nasty_tree

LIST = "mount -t virtiofs -o ro $TAG /mnt && treelist /mnt"


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("nasty") / "source"
    make_nasty_tree(source, small_files=3400)
    return source


def check_same_tree(guest: Guest, image: Image, work: Path, programs: dict[str, bytes | Path]) -> None:
    result, _ = run_on_image(guest, image, LIST, work, files=programs)
    seen = treelist.parse(result.check().lines)
    expected = treelist.with_sorted_links(describe(image.source))
    assert len(expected) > 5000
    assert differences(expected, seen)[:20] == []


@pytest.mark.parametrize(("compressor", "version"), [("lz4_block", "6"), ("zstd", "5"), ("none", "6")])
def test_a_nasty_tree(
    guest: Guest,
    nasty: Path,
    programs: dict[str, bytes | Path],
    tmp_path: Path,
    compressor: str,
    version: str,
) -> None:
    image = Image(nasty, tmp_path, "--compressor", compressor, "--fs-version", version)
    check_same_tree(guest, image, tmp_path, programs)


def test_a_debian_root(
    guest: Guest, python_image: Image, programs: dict[str, bytes | Path], tmp_path: Path
) -> None:
    check_same_tree(guest, python_image, tmp_path, programs)
