"""A compacted image is the same tree, in blobs that hold what is used."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

import rafs
from rafs.build import BuildOptions, build_image
from rafs.errors import BlobCorrupt
from rafs.tools.check import check_image
from rafs.tools.compact import CompactOptions, compact_image
from rafs.tools.export import export_erofs
from rafs.tools.unpack import unpack_directory
from tests import erofs
from tests.trees import describe, differences

CHUNK = 4096
DATA = random.Random(3).randbytes(30 * CHUNK)


@pytest.fixture(params=[5, 6])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An image of three blobs: of the first all is used, of the second a part, the third is small."""
    options = {"compressor": "zstd", "chunk_size": CHUNK, "fs_version": request.param}
    source = tmp_path / "source"
    source.mkdir()
    before = None
    for number, (keep, drop) in enumerate(
        ((DATA[: 10 * CHUNK], b""), (DATA[10 * CHUNK : 12 * CHUNK], DATA), (b"x" * 99, b""))
    ):
        (source / f"kept-{number}").write_bytes(keep)
        (source / "dropped").write_bytes(drop)
        chosen = BuildOptions(chunk_dict=before, **options)
        before = tmp_path / f"boot-{number}"
        build_image(source, before, tmp_path / "blobs", chosen)
    (source / "dropped").unlink()
    build_image(source, tmp_path / "boot", tmp_path / "blobs", BuildOptions(chunk_dict=before, **options))
    return tmp_path


def compact(folder: Path, min_used_share: float, min_size: int) -> dict[str, str]:
    """Compact, look at everything, and return what became of each blob."""
    blobs = folder / "blobs"
    options = CompactOptions(min_used_share, min_size)
    with rafs.open(folder / "boot", blobs) as image:
        result = compact_image(image, folder / "boot", folder / "new", blobs, options)
    with rafs.open(folder / "new", blobs) as image:
        report = check_image(image)
        assert report.is_sound and report.warnings == []
        unpack_directory(image, folder / "tree")
        ids = [image.image.blob(index).blob_id for index in range(image.image.blob_count)]
    assert differences(describe(folder / "source"), describe(folder / "tree")) == []
    kept = [blob.blob_id for blob in result.blobs if blob.fate == "kept"]
    assert sorted(ids) == sorted(kept + ([result.new_blob] if result.new_blob else []))
    return {blob.blob_id: blob.fate for blob in result.blobs}


def test_what_is_little_used(folder: Path) -> None:
    fates = compact(folder, 0.5, 0)
    assert sorted(fates.values()) == ["kept", "kept", "rebuilt"]


def test_what_is_small(folder: Path) -> None:
    assert list(compact(folder, 0, 1 << 30).values()) == ["rebuilt"] * 3


def test_nothing_to_do(folder: Path) -> None:
    before = sorted((folder / "blobs").iterdir())
    assert list(compact(folder, 0, 0).values()) == ["kept"] * 3
    assert sorted((folder / "blobs").iterdir()) == before


def test_a_wrong_blob_is_not_copied(folder: Path) -> None:
    for blob in (folder / "blobs").iterdir():
        content = bytearray(blob.read_bytes())
        content[5] ^= 1
        blob.write_bytes(content)
    before = sorted(folder.rglob("*"))
    with rafs.open(folder / "boot", folder / "blobs") as image, pytest.raises(BlobCorrupt):
        compact_image(image, folder / "boot", folder / "new", folder / "blobs", CompactOptions(1, 1 << 30))
    assert sorted(folder.rglob("*")) == before


def test_an_image_without_digests_in_its_table(tmp_path: Path) -> None:
    """Chunks of the same size are then not taken for the same."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(DATA)
    build_image(source, tmp_path / "boot", tmp_path / "blobs", BuildOptions(chunk_size=CHUNK))
    content = bytearray((tmp_path / "boot").read_bytes())
    offset, size = struct.unpack_from("<QQ", content, 1152 + 24)
    for at in range(offset, offset + size, 80):
        content[at : at + 32] = bytes(32)
    (tmp_path / "bare").write_bytes(content)
    with rafs.open(tmp_path / "bare", tmp_path / "blobs") as image:
        options = CompactOptions(1.1, 0)
        compact_image(image, tmp_path / "bare", tmp_path / "new", tmp_path / "blobs", options)
        export_erofs(image, tmp_path / "bare", tmp_path / "image")
    with rafs.open(tmp_path / "new", tmp_path / "blobs") as image:
        assert check_image(image).is_sound and image.read("/file") == DATA
    with erofs.mounted(tmp_path / "image", None) as point:
        assert (point / "file").read_bytes() == DATA
