"""Archives as sources: what GNU tar packs comes out as it was; what no runtime would unpack is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import zstandard

from rafs.build import BuildError, BuildOptions, BuildResult, TarSource, Whiteouts, build_image
from rafs.build.tar_stream import MAX_HEADER
from rafs.image import Image
from tests import erofs, tars
from tests.tars import Member, directory, hard_link, symlink
from tests.trees import Entry, describe, differences


def build(content: bytes, out: Path, **options: object) -> BuildResult:
    chosen = BuildOptions(**{"compressor": "none", "whiteouts": Whiteouts.OCI, **options})  # type: ignore[arg-type]
    return build_image(TarSource(io.BytesIO(content), "the archive"), out / "boot", out / "blobs", chosen)


def tree_of(result: BuildResult) -> dict[bytes, Entry]:
    with erofs.mounted(result.bootstrap_path, result.blob_path) as point:
        return describe(point)


def test_gnu_tar_of_the_nasty_tree(
    nasty_tree: Path, nasty_entries: dict[bytes, Entry], tmp_path: Path
) -> None:
    """Sparse files, long names, attributes, nanoseconds, names that are not UTF-8; through a pipe."""
    pack = [
        "tar",
        "--create",
        "--format=pax",
        "--xattrs",
        "--xattrs-include=*",
        "--sparse",
        "--numeric-owner",
    ]
    with subprocess.Popen(
        [*pack, "-C", str(nasty_tree), "."], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as tar:
        assert tar.stdout is not None
        source = TarSource(cast("BinaryIO", tar.stdout), "stdin")
        result = build_image(source, tmp_path / "boot", tmp_path / "blobs", BuildOptions("none"))
    expected = dict(nasty_entries)
    # GNU tar has no sockets, and makes two files of two names of a fifo
    del expected[b"special/socket"]
    for name in (b"links/fifo", b"links/b/fifo"):
        expected[name] = replace(expected[name], nlink=1, link_of=name)
    assert differences(expected, tree_of(result)) == []


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(tmp_path: Path, tar_format: int) -> None:
    long = "/".join(["d" * 90] * (1 if tar_format == tarfile.USTAR_FORMAT else 3))
    members = [
        directory(".", 0o700, uid=5, gid=6, mtime_ns=7 * 10**9),
        directory(long, 0o755),
        Member(long + "/file", b"data" * 2000, mode=0o4755, uid=1000, gid=100),
        hard_link("other", long + "/file"),
        symlink("link", "d" * 90),
        Member("null", type=tarfile.CHRTYPE, device=(1, 3)),
        Member("loop", type=tarfile.BLKTYPE, device=(7, 1)),
        Member("fifo", type=tarfile.FIFOTYPE, mode=0o600),
    ]
    tree = tree_of(build(tars.archive(members, tar_format), tmp_path))
    assert (tree[b"."].mode, tree[b"."].uid, tree[b"."].gid) == (stat.S_IFDIR | 0o700, 5, 6)
    assert tree[b"."].mtime_ns == 7 * 10**9
    file = tree[long.encode() + b"/file"]
    assert (file.mode, file.uid, file.gid, file.size) == (stat.S_IFREG | 0o4755, 1000, 100, 8000)
    assert tree[b"other"].link_of == tree[long.encode() + b"/file"].link_of and file.nlink == 2
    assert tree[b"link"].target == b"d" * 90
    assert (tree[b"null"].rdev, tree[b"loop"].rdev) == (os.makedev(1, 3), os.makedev(7, 1))
    assert stat.S_ISFIFO(tree[b"fifo"].mode)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    # as estargz and pigz write it
    "gzip members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "zstd": zstandard.ZstdCompressor().compress,
    # as zstd:chunked has it: frames, and frames to skip
    "zstd frames": lambda data: (
        zstandard.compress(data[:1000]) + b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstandard.compress(data[1000:])
    ),
    "zstd skippable first": lambda data: b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstandard.compress(data),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_compression_is_found_out(tmp_path: Path, compression: str) -> None:
    content = tars.archive([Member("file", os.urandom(50_000))])
    plain = build(content, tmp_path / "plain")
    packed = build(COMPRESSORS[compression](content), tmp_path / "packed")
    assert packed.bootstrap_path.read_bytes() == plain.bootstrap_path.read_bytes()
    assert packed.blob == plain.blob


def test_another_compression_than_said(tmp_path: Path) -> None:
    source = TarSource(io.BytesIO(gzip.compress(b"x")), "layer.tar", compression="none")
    with pytest.raises(BuildError, match=r"layer.tar: its compression is not none but gzip"):
        build_image(source, tmp_path / "b", tmp_path / "blobs")


def test_jobs_do_not_matter(nasty_tree: Path, tmp_path: Path) -> None:
    content = subprocess.run(
        ["tar", "-c", "-C", str(nasty_tree), "sizes", "small"], capture_output=True, check=True
    ).stdout
    first, *others = [
        build(content, tmp_path / str(jobs), jobs=jobs, compressor="zstd") for jobs in (1, 2, 7)
    ]
    for other in others:
        assert other.blob == first.blob
        assert other.bootstrap_path.read_bytes() == first.bootstrap_path.read_bytes()


def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    """As containerd unpacks: a directory over a directory keeps what is in it, all else goes."""
    members = [
        directory("d", 0o700),
        Member("d/kept", b"1"),
        directory("d", 0o711),
        Member("file", b"old" * 5000),
        Member("file", b"new"),
        directory("gone"),
        Member("gone/inner", b"x"),
        Member("gone", b"now a file"),
        Member("becomes", b"x"),
        directory("becomes"),
        Member("becomes/inner", b"y"),
        Member("linked", b"first"),
        hard_link("link", "linked"),
        Member("linked", b"second"),
    ]
    tree = tree_of(build(tars.archive(members), tmp_path))
    assert stat.S_IMODE(tree[b"d"].mode) == 0o711 and tree[b"d/kept"].size == 1
    assert tree[b"file"].size == 3
    assert tree[b"gone"].size == 10 and b"gone/inner" not in tree
    assert tree[b"becomes/inner"].size == 1
    assert (tree[b"linked"].size, tree[b"link"].size, tree[b"link"].nlink) == (6, 5, 1)


def test_names_stay_below_the_root(tmp_path: Path) -> None:
    """Absolute names are taken below the root; symlinks on the way are followed, but not out of it."""
    members = [
        Member("/etc/passwd", b"1"),
        Member("./a/../b//c/./d", b"22"),
        symlink("abs", "/target"),
        Member("abs/x", b"333"),
        symlink("up", "../../../../target"),
        Member("up/y", b"4444"),
        directory("usr"),
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        Member("lib/so", b"55555"),
    ]
    tree = tree_of(build(tars.archive(members), tmp_path))
    sizes = {name: entry.size for name, entry in tree.items() if stat.S_ISREG(entry.mode)}
    assert sizes == {b"etc/passwd": 1, b"b/c/d": 2, b"target/x": 3, b"target/y": 4, b"usr/lib/so": 5}
    assert stat.S_IMODE(tree[b"etc"].mode) == 0o755


def test_whiteouts_are_never_shown(tmp_path: Path) -> None:
    members = [
        Member("d/.wh.gone"),
        Member("d/.wh..wh..opq"),
        Member(".wh..wh.plnk/1", b"x"),
        Member("d/kept", b"1"),
    ]
    shown = build(tars.archive(members), tmp_path / "oci")
    assert tree_of(shown).keys() == {b".", b"d", b"d/kept"}
    kept = build(tars.archive(members), tmp_path / "none", whiteouts=Whiteouts.NONE)
    assert tree_of(kept).keys() >= {b"d/.wh.gone", b"d/.wh..wh..opq", b".wh..wh.plnk/1"}


def test_files_that_describe_an_estargz_layer(tmp_path: Path) -> None:
    members = [Member(".prefetch.landmark", b"\x0f"), Member("stargz.index.json", b"{}"), Member("a", b"1")]
    assert tree_of(build(tars.archive(members), tmp_path)).keys() == {b".", b"a"}


def test_attributes(tmp_path: Path) -> None:
    """Both kinds of records; SCHILY's bytes go first, and names that RAFS has no prefix for are left out."""
    member = Member(
        "file",
        xattrs={"user.a": b"\xff\0=\n1", "user.both": b"schily", "system.other": b"x"},
        pax={"LIBARCHIVE.xattr.user.b%25": "dmFsdWU", "LIBARCHIVE.xattr.user.both": "b3RoZXI="},
    )
    result = build(tars.archive([member]), tmp_path)
    image = Image(result.bootstrap_path)
    assert image.xattrs(image.resolve(b"/file")) == {
        b"user.a": b"\xff\0=\n1",
        b"user.b%": b"value",
        b"user.both": b"schily",
    }
    image.close()
    assert result.warnings == (
        "attribute 'system.other' cannot be stored in RAFS and was left out of 1 file(s), "
        "the first is 'file'",
    )


def test_negative_mode(tmp_path: Path) -> None:
    """GNU's numbers may be negative; what is above the permissions is not looked at."""
    tree = tree_of(build(tars.archive([Member("a", mode=-1)], tarfile.GNU_FORMAT), tmp_path))
    assert tree[b"a"].mode == stat.S_IFREG | 0o7777


HOSTILE = {
    "up": ([Member("a/../../x")], "entry 'a/../../x': its name leads out of the image"),
    "up at once": ([Member("../x")], "leads out of the image"),
    "link up": ([Member("x"), hard_link("y", "../x")], "leads out of the image"),
    "link to nothing": (
        [hard_link("a", "b")],
        "entry 'a': a hard link to 'b', which the archive does not have",
    ),
    "link to itself": ([hard_link("a", "a")], "which the archive does not have"),
    "link to a directory": ([directory("d"), hard_link("l", "d")], "which is a directory"),
    "below a file": ([Member("f"), Member("f/x")], "entry 'f/x': 'f': 'f' on the way is not a directory"),
    "symlink loop": ([symlink("a", "b"), symlink("b", "a"), Member("a/x")], "loop of symlinks"),
    "root is a file": ([Member(".", b"x")], "the root of an image is a directory"),
    "long name": ([Member("n" * 256)], "no name that Linux has: 256 bytes"),
    "no target": ([symlink("a", "")], "a symlink to a name of 0 bytes"),
    "long target": ([symlink("a", "t" * 4096)], "a symlink to a name of 4096 bytes"),
    "type": ([Member("a", type=b"V")], "type b'V' is not one"),
    "owner": ([Member("a", pax={"uid": "4294967296"})], "owner 4294967296 is not"),
    "time": ([Member("a", pax={"mtime": "1e400"})], "time '1e400' is not a number"),
    "far time": ([Member("a", pax={"mtime": "99999999999999999999"})], "does not fit 64 bits"),
    "device": ([Member("a", type=tarfile.CHRTYPE, device=(4096, 0))], "device number 4096:0"),
    "not base64": ([Member("a", pax={"LIBARCHIVE.xattr.user.x": "?"})], "is not base64"),
    "whiteout of nothing": ([Member("d/.wh.")], "names nothing that could be removed"),
    "whiteout of the parent": ([Member("d/.wh...")], "names nothing that could be removed"),
    "size": ([Member("a", pax={"size": "-5"})], "a size of -5 bytes"),
    "sparse out of order": (
        [Member("a", b"xy", pax={"GNU.sparse.map": "9,1,0,1", "GNU.sparse.size": "20"})],
        "out of order",
    ),
    "sparse past its end": (
        [Member("a", b"xy", pax={"GNU.sparse.map": "0,99", "GNU.sparse.size": "20"})],
        "out of order",
    ),
    "endless hole": (
        [Member("a", b"", pax={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 62)})],
        "use a larger --chunk-size",
    ),
    "headers": ([Member("a", pax={"comment": "c" * MAX_HEADER})], "take more than"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(tmp_path: Path, case: str) -> None:
    members, said = HOSTILE[case]
    with pytest.raises(BuildError, match=said.replace("(", r"\(")) as caught:
        build(tars.archive(members), tmp_path)
    assert str(caught.value).startswith("the archive") or "whiteout" in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def _damage(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def _damaged() -> dict[str, bytes]:
    whole = tars.archive([Member("a", b"1" * 3000), Member("b", b"2" * 3000)])
    packed = gzip.compress(whole)
    return {
        "empty": b"",
        "not a tar": b"no archive at all" * 100,
        "cut in a file": whole[:2000],
        "cut in a header": whole[: 512 + 3072 + 100],
        "cut before the next header": whole[: 512 + 3000],
        "damaged header": _damage(whole, 512 + 3072 + 5, b"zzz"),
        "data after the end": whole[: 2 * (512 + 3072) + 512] + whole,
        "gzip cut": packed[:-20],
        "gzip damaged": _damage(packed, len(packed) - 6, b"\x55"),
        "gzip with a tail": packed + b"tail",
        "zstd cut": zstandard.compress(whole)[:-20],
    }


@pytest.mark.parametrize("case", _damaged())
def test_damaged_archives(tmp_path: Path, case: str) -> None:
    """A shorter image than was meant must not come out."""
    with pytest.raises(BuildError, match=r"^the archive"):
        build(_damaged()[case], tmp_path)


def test_an_archive_may_lack_its_end(tmp_path: Path) -> None:
    """Some writers leave the two zero blocks away; others have an archive of nothing else."""
    whole = tars.archive([Member("a", b"1" * 512)])
    assert tree_of(build(whole[:1024], tmp_path / "1")).keys() == {b".", b"a"}
    assert tree_of(build(bytes(1024), tmp_path / "2")).keys() == {b"."}


def test_a_stream_is_not_read_ahead_of_the_work(tmp_path: Path) -> None:
    """Memory is bounded by a window of units, whatever the archive's size: here 256 MiB of nothing."""
    size = 256 << 20
    head = Member("big", pax={"size": str(size)}).info()
    head.size = size
    taken = 0

    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.left = [head.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")]

        def readable(self) -> bool:
            return True

        def read(self, count: int = -1, /) -> bytes:
            nonlocal taken
            if self.left:
                data, self.left[0] = self.left[0][:count], self.left[0][count:]
                if not self.left[0]:
                    self.left.pop()
                return data
            taken += count
            return bytes(count)

    class Watch:
        largest = 0

        def scanned(self, entries: int) -> None:
            pass

        def packed(self, done: int, total: int | None) -> None:
            assert total is None
            self.largest = max(self.largest, taken - done)
            if done >= size // 2:
                raise BuildError("that is enough")

    watch = Watch()
    with pytest.raises(BuildError, match="that is enough"):
        build_image(
            TarSource(cast("BinaryIO", Endless()), "endless"),
            tmp_path / "b",
            tmp_path / "blobs",
            BuildOptions(jobs=2),
            watch,
        )
    assert watch.largest <= 10 << 20
    assert threading.active_count() < 20
