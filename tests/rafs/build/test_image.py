"""Whole builds: the source and what independent readers see of the image are the same tree."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rafs.build import BuildError, BuildOptions, BuildResult, build_image
from rafs.build.output import PendingFile
from tests import blobs, erofs
from tests.trees import Entry, describe, differences, make_nasty_tree

CODECS = {"none": 0, "lz4_block": 1, "zstd": 3}
CHUNK_SIZES = [4096, 64 << 10, 1 << 20]


def build(source: Path, out: Path, **options: object) -> BuildResult:
    return build_image(source, out / "image.boot", out / "blobs", BuildOptions(**options))  # type: ignore[arg-type]


def device_of(result: BuildResult, compressor: str, scratch: Path) -> Path | None:
    """What the kernel takes as the blob: the file itself, or its uncompressed form."""
    if result.blob_path is None or compressor == "none":
        return result.blob_path
    device = scratch / "device"
    blobs.fill_device(result.blob_path, CODECS[compressor], device)
    return device


@pytest.mark.parametrize("compressor", CODECS)
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_kernel_sees_the_source(
    nasty_tree: Path, nasty_entries: dict[bytes, Entry], tmp_path: Path, compressor: str, chunk_size: int
) -> None:
    assert len(nasty_entries) > 4000
    result = build(nasty_tree, tmp_path, compressor=compressor, chunk_size=chunk_size)
    assert result.entry_count == len(nasty_entries)
    assert result.warnings == ()
    device = device_of(result, compressor, tmp_path)
    erofs.fsck(result.bootstrap_path, device)
    with erofs.mounted(result.bootstrap_path, device) as point:
        assert differences(nasty_entries, describe(point)) == []


@pytest.mark.parametrize("compressor", CODECS)
def test_fsck_extracts_the_source(
    nasty_tree: Path, nasty_entries: dict[bytes, Entry], tmp_path: Path, compressor: str
) -> None:
    result = build(nasty_tree, tmp_path, compressor=compressor, digester="sha256", chunk_size=64 << 10)
    erofs.extract(result.bootstrap_path, device_of(result, compressor, tmp_path), tmp_path / "extracted")

    def as_extracted(name: bytes, entry: Entry) -> Entry:
        # this fsck.erofs writes no attributes, makes hard links single files, and its chown drops set-id bits
        mode = entry.mode & ~0o6000 if stat.S_ISREG(entry.mode) else entry.mode
        nlink = entry.nlink if stat.S_ISDIR(entry.mode) else 1
        return replace(entry, mode=mode, nlink=nlink, link_of=name, xattrs={})

    expected = {name: as_extracted(name, entry) for name, entry in nasty_entries.items()}
    assert differences(expected, describe(tmp_path / "extracted")) == []


def test_dump_counts_the_source(nasty_tree: Path, nasty_entries: dict[bytes, Entry], tmp_path: Path) -> None:
    result = build(nasty_tree, tmp_path, compressor="none")
    lines = erofs.dump(result.bootstrap_path, result.blob_path, "-S").splitlines()
    counts = {
        words[0].removeprefix("Filesystem "): int(words[1])
        for line in lines
        if len(words := line.split(":")) == 2 and words[1].strip().isdigit()
    }
    kinds = [stat.S_IFMT(entry.mode) for entry in nasty_entries.values()]
    assert counts["total file count"] == len(kinds)
    assert counts["regular file count"] == kinds.count(stat.S_IFREG)
    assert counts["directory count"] == kinds.count(stat.S_IFDIR)
    assert counts["symlink file count"] == kinds.count(stat.S_IFLNK)


def test_kernel_sees_the_source_through_loop_devices(
    nasty_tree: Path, nasty_entries: dict[bytes, Entry], tmp_path: Path
) -> None:
    """As kernels do before 6.12."""
    result = build(nasty_tree, tmp_path, compressor="none")
    with erofs.mounted(result.bootstrap_path, result.blob_path, use_loop=True) as point:
        assert differences(nasty_entries, describe(point)) == []


def test_chunks_in_a_row_are_one_extent(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "row").write_bytes(os.urandom(40_000))
    (source / "zigzag").write_bytes(bytes(12_000) + os.urandom(4096))
    result = build(source, tmp_path, compressor="none", chunk_size=4096)
    assert "/row: 1 extents found" in erofs.dump(result.bootstrap_path, result.blob_path, "-e", "--path=/row")
    assert "/zigzag: 4 extents found" in erofs.dump(
        result.bootstrap_path, result.blob_path, "-e", "--path=/zigzag"
    )
    with erofs.mounted(result.bootstrap_path, result.blob_path) as point:
        assert differences(describe(source), describe(point)) == []


@pytest.mark.parametrize("compressor", CODECS)
def test_same_tree_same_bytes(nasty_tree: Path, tmp_path: Path, compressor: str) -> None:
    """Another copy of the tree, other numbers of threads, another order of directory entries on disk."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", "--sparse=never", nasty_tree, copy], check=True)
    built = []
    for position, (source, jobs) in enumerate([(nasty_tree, 1), (nasty_tree, 2), (copy, 7)]):
        result = build(
            source, tmp_path / str(position), compressor=compressor, chunk_size=64 << 10, jobs=jobs
        )
        assert result.blob_path is not None
        built.append(
            (result.blob_path.name, result.blob_path.read_bytes(), result.bootstrap_path.read_bytes())
        )
    assert built[0] == built[1]
    assert built[0] == built[2]


def test_tree_maker_makes_the_same_tree(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_nasty_tree(tmp_path / name, small_files=100, large=False)
    assert differences(describe(tmp_path / "one"), describe(tmp_path / "other")) == []


@pytest.mark.parametrize("names", [[], ["empty", "folder/other"]])
def test_tree_without_data_needs_no_blob(tmp_path: Path, names: list[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in names:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    result = build(source, tmp_path)
    assert result.blob is None
    assert list((tmp_path / "blobs").iterdir()) == []
    assert result.bootstrap_size == result.bootstrap_path.stat().st_size >= 8192
    erofs.fsck(result.bootstrap_path, None)
    with erofs.mounted(result.bootstrap_path, None) as point:
        assert differences(describe(source), describe(point)) == []


def test_repeated_chunks_are_stored_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    block = os.urandom(4096)
    (source / "a").write_bytes(block * 5)
    (source / "b").write_bytes(block + b"tail")
    (source / "c").write_bytes(b"tail")
    result = build(source, tmp_path, compressor="none", chunk_size=4096)
    assert result.blob is not None
    assert (result.chunk_count, result.blob.chunk_count) == (8, 2)
    assert (result.data_size, result.distinct_size) == (6 * 4096 + 8, 4096 + 4)
    assert result.blob.uncompressed_size == 8192


def test_very_large_directory(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(30_000):
        (source / f"{number:x}-{'n' * (number % 90)}").touch()
    result = build(source, tmp_path)
    with erofs.mounted(result.bootstrap_path, None) as point:
        names = [path.name for path in source.iterdir()]
        assert sorted(path.name for path in point.iterdir()) == sorted(names)
        assert all((point / name).stat().st_size == 0 for name in names)


def test_huge_hole_is_not_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(123_456_789_012)
        file.write(b"needle")
    result = build(source, tmp_path, compressor="none", chunk_size=16 << 20)
    assert result.blob is not None
    assert (result.chunk_count, result.blob.chunk_count) == (1 << 16, 2)
    with (
        erofs.mounted(result.bootstrap_path, result.blob_path) as point,
        (point / "sparse").open("rb") as seen,
    ):
        assert seen.seek(0, os.SEEK_END) == 1 << 40
        seen.seek(123_456_789_000)
        assert seen.read(30) == bytes(12) + b"needle" + bytes(12)


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Peak memory of two builds in processes of their own, one with 300 MiB more data."""
    program = (
        "import resource, sys; from pathlib import Path; from rafs.build import BuildOptions, build_image\n"
        "out = Path(sys.argv[2]); build_image(sys.argv[1], out / 'b', out, BuildOptions('none', jobs=2))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for name, size in (("small", 20 << 20), ("large", 320 << 20)):
        source = tmp_path / name
        source.mkdir()
        with (source / "data").open("wb") as file:
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))
        command = [sys.executable, "-c", program, str(source), str(tmp_path / "out")]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
        shutil.rmtree(source)
    assert peaks[1] - peaks[0] < 40 << 10  # KiB


@pytest.mark.parametrize(
    ("bootstrap", "blob_dir", "complaint"),
    [
        ("source/image.boot", "blobs", "--bootstrap lies in the source"),
        ("image.boot", "source/folder", "--blob-dir lies in the source"),
        ("link/image.boot", "blobs", "--bootstrap lies in the source"),
        ("folder", "blobs", "is a directory; name a file"),
    ],
)
def test_outputs_in_wrong_places_are_refused(
    tmp_path: Path, bootstrap: str, blob_dir: str, complaint: str
) -> None:
    (tmp_path / "source" / "folder").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("source")
    with pytest.raises(BuildError, match=complaint):
        build_image(tmp_path / "source", tmp_path / bootstrap, tmp_path / blob_dir)
    assert describe(tmp_path / "source").keys() == {b".", b"folder"}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (BuildOptions(compressor="gzip"), "no compressor 'gzip'; choose one of none, lz4_block, zstd"),
        (BuildOptions(digester="md5"), "no digester 'md5'; choose one of blake3, sha256"),
        (BuildOptions(chunk_size=2048), "chunk size 2048 is not a power of two from 4096"),
        (BuildOptions(chunk_size=5000), "chunk size 5000 is not"),
        (BuildOptions(chunk_size=32 << 20), "chunk size 33554432 is not"),
        (BuildOptions(jobs=0), "0 jobs cannot"),
    ],
)
def test_unknown_options_are_refused(tmp_path: Path, options: BuildOptions, complaint: str) -> None:
    with pytest.raises(BuildError, match=complaint):
        build_image(tmp_path, Path("/nonexistent/b"), Path("/nonexistent"), options)


def test_blob_is_there_before_the_bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"data")
    seen = []
    real_commit = PendingFile.commit

    def commit(self: PendingFile, name: str) -> Path:
        path = real_commit(self, name)
        seen.append((path.name, (tmp_path / "image.boot").exists()))
        return path

    monkeypatch.setattr(PendingFile, "commit", commit)
    result = build(tmp_path / "source", tmp_path)
    assert result.blob is not None
    assert seen == [(result.blob.blob_id, False), ("image.boot", True)]


def test_failed_build_leaves_what_was_there(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"first")
    before = build(source, tmp_path)
    kept = describe(tmp_path)

    class Intruder:
        def scanned(self, entries: int) -> None:
            (source / "file").write_bytes(b"other")

        def packed(self, done: int, total: int | None) -> None:
            pass

    with pytest.raises(BuildError, match="/file' changed during the build"):
        build_image(source, before.bootstrap_path, tmp_path / "blobs", progress=Intruder())
    (source / "file").unlink()
    outputs = [name for name in kept if not name.startswith(b"source")]
    after = describe(tmp_path)
    assert {name: after[name].sha256 for name in outputs} == {name: kept[name].sha256 for name in outputs}
    assert after.keys() == kept.keys() - {b"source/file"}
