"""RAFS v5 as we build it: an independent reader, ours, and the v6 image of the tree agree with the source."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rafs
from rafs.build import (
    BuildError,
    BuildOptions,
    PrefetchPolicy,
    TarSource,
    Whiteouts,
    build_image,
    merge_bootstraps,
)
from rafs.image import Image
from rafs.tools.check import check_image
from rafs.tools.export import export_erofs
from rafs.tools.unpack import unpack_directory
from tests import erofs
from tests.rafs.build.test_properties import CODECS, Maker, folders
from tests.rafs5 import Image5, describe_image
from tests.trees import Entry, describe, differences


def build(source: Any, out: Path, **options: Any) -> Path:
    build_image(source, out / "boot", out / "blobs", BuildOptions(fs_version=5, **options))
    return out / "boot"


@pytest.mark.parametrize(
    ("compressor", "digester", "chunk_size"),
    [("none", "blake3", 1 << 20), ("lz4_block", "sha256", 64 << 10), ("zstd", "blake3", 16 << 10)],
)
def test_the_nasty_tree(
    nasty_tree: Path,
    nasty_entries: dict[bytes, Entry],
    tmp_path: Path,
    compressor: str,
    digester: str,
    chunk_size: int,
) -> None:
    bootstrap = build(nasty_tree, tmp_path, compressor=compressor, digester=digester, chunk_size=chunk_size)
    assert differences(nasty_entries, describe_image(bootstrap, tmp_path / "blobs")) == []
    with rafs.open(bootstrap, tmp_path / "blobs") as image:
        report = check_image(image)
    assert report.is_sound and report.warnings == []
    assert report.counts["verified_chunks"] == report.counts["chunks"]


def listing(bootstrap: Path, blobs: Path) -> list[tuple[Any, ...]]:
    """All that our reader gives, but the numbers of inodes and the sizes of directories."""
    found: list[tuple[Any, ...]] = []
    numbers: dict[int, int] = {}
    with rafs.open(bootstrap, blobs) as image:
        for path, inode in image.walk():
            number = numbers.setdefault(inode.nid, len(numbers))
            is_dir = stat.S_ISDIR(inode.mode)
            plain = inode._replace(nid=number, size=0 if is_dir else inode.size)
            link = image.readlink(path) if stat.S_ISLNK(inode.mode) else b""
            data = image.read(path) if stat.S_ISREG(inode.mode) else b""
            names = [entry.name for entry in image.image.readdir(inode.nid)] if is_dir else []
            for name in names:
                assert image.image.lookup(inode.nid, name) is not None
            found.append((path, plain, image.xattrs(path), link, data, sorted(names)))
    return found


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tree=folders,
    compressor=st.sampled_from(list(CODECS)),
    digester=st.sampled_from(["blake3", "sha256"]),
    chunk_size=st.sampled_from([4096, 8192, 64 << 10, 1 << 20]),
)
def test_any_tree_is_the_same_in_both_versions(
    tree: dict[bytes, Any], compressor: str, digester: str, chunk_size: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="vhostfs-tree-") as scratch:
        source, out = Path(scratch, "source"), Path(scratch)
        source.mkdir()
        Maker().folder(os.fsencode(source), tree)
        options = {"compressor": compressor, "digester": digester, "chunk_size": chunk_size}
        v5 = build(source, out / "5", **options)
        build_image(source, out / "6" / "boot", out / "6" / "blobs", BuildOptions(**options))  # type: ignore[arg-type]
        assert differences(describe(source), describe_image(v5, out / "5" / "blobs")) == []
        assert listing(v5, out / "5" / "blobs") == listing(out / "6" / "boot", out / "6" / "blobs")
        for version in ("5", "6"):
            with rafs.open(out / version / "boot", out / version / "blobs") as image:
                assert check_image(image).is_sound
                unpack_directory(image, out / version / "tree")
                export_erofs(image, out / version / "boot", out / version / "image")
            assert differences(describe(source), describe(out / version / "tree")) == []
        assert (out / "5" / "image").read_bytes() == (out / "6" / "image").read_bytes()
        erofs.fsck(out / "5" / "image", None)
        with erofs.mounted(out / "5" / "image", None) as point:
            assert differences(describe(source), describe(point)) == []


def tar(entries: dict[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    file.seek(0)
    return file


def test_layers(tmp_path: Path) -> None:
    """From tar archives: a parent with its whiteouts, a dictionary, and a merge all keep to v5."""
    data = random.Random(1).randbytes(20_000)
    lower = TarSource(tar({"a/kept": data, "a/gone": b"gone", "b": b"b"}), "lower")
    upper = {"a/.wh.gone": b"", "c": data[:8192], "d": b"new"}
    options = {"chunk_size": 4096, "compressor": "none"}
    below = build(lower, tmp_path / "1", **options)
    build_image(
        TarSource(tar(upper), "upper"),
        tmp_path / "2" / "boot",
        tmp_path / "1" / "blobs",
        BuildOptions(fs_version=5, parent=below, whiteouts=Whiteouts.OCI, **options),  # type: ignore[arg-type]
    )
    stacked = listing(tmp_path / "2" / "boot", tmp_path / "1" / "blobs")
    assert [path for path, *_ in stacked] == [b"/", b"/a", b"/a/kept", b"/b", b"/c", b"/d"]
    assert stacked[4][4] == data[:8192] and len(list((tmp_path / "1" / "blobs").iterdir())) == 2
    image = Image5(tmp_path / "2" / "boot")
    assert len(image.blob_ids) == 2 and sorted(blob[0] for blob in image.blobs) == [1, 7]

    alone = build(TarSource(tar(upper), "upper"), tmp_path / "3", **options)
    merge_bootstraps([below, alone], tmp_path / "4" / "boot")
    (next((tmp_path / "3" / "blobs").iterdir())).rename(tmp_path / "1" / "blobs" / Image5(alone).blob_ids[0])
    merged = listing(tmp_path / "4" / "boot", tmp_path / "1" / "blobs")
    assert [entry[0] for entry in merged] == [entry[0] for entry in stacked]
    assert [entry[4] for entry in merged] == [entry[4] for entry in stacked]


def test_what_does_not_go_together(tmp_path: Path) -> None:
    for number, (version, compressor) in enumerate(((6, "none"), (5, "none"), (5, "zstd"))):
        source = TarSource(tar({str(number): str(number).encode() * 5000}), "source")
        options = BuildOptions(fs_version=version, compressor=compressor)
        build_image(source, tmp_path / str(number), tmp_path / "blobs", options)
    with pytest.raises(BuildError, match="is RAFS v5, not v6"):
        merge_bootstraps([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    with pytest.raises(BuildError, match="is RAFS v6, not v5"):
        build(TarSource(tar({"x": b"x"}), "x"), tmp_path, chunk_dict=tmp_path / "0")
    with pytest.raises(BuildError, match="the blobs differ in compressor or digester"):
        merge_bootstraps([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    with pytest.raises(BuildError, match="no RAFS v4; choose 5 or 6"):
        BuildOptions(fs_version=4).validate()


def test_prefetch_and_the_same_bytes(nasty_tree: Path, tmp_path: Path) -> None:
    wanted = (b"/large/random", b"/sizes", b"/not-there")
    options = {"prefetch": wanted, "prefetch_policy": PrefetchPolicy.FS}
    one = build(nasty_tree, tmp_path / "1", jobs=1, **options)
    two = build(nasty_tree, tmp_path / "2", jobs=3, **options)
    assert one.read_bytes() == two.read_bytes()
    assert [p.name for p in (tmp_path / "1" / "blobs").iterdir()] == [
        p.name for p in (tmp_path / "2" / "blobs").iterdir()
    ]
    image = Image(one)
    assert image.prefetch_nids() == [image.resolve(path) for path in wanted[:2]]
    assert next(image.extents(image.resolve(wanted[0]), 0, 1)).chunk_index == 0
    image.close()


def test_an_empty_tree(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    bootstrap = build(source, tmp_path / "out")
    assert differences(describe(source), describe_image(bootstrap, tmp_path / "out" / "blobs")) == []
    with rafs.open(bootstrap) as image:
        assert check_image(image, data=False).is_sound and image.listdir() == []
