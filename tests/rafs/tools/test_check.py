"""`check` finds nothing in good images, and names what is wrong in others; whatever they are, it ends."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import rafs
from rafs.build import BuildOptions, build_image
from rafs.errors import RafsError
from rafs.tools.check import Report, check_image
from rafs.tools.inspect import inspect_image
from rafs.tools.unpack_tar import unpack_tar
from tests.rafs.tools.conftest import Built


def checked(bootstrap: Path, blobs: Path | None = None) -> Report:
    with rafs.open(bootstrap, blobs or ()) as image:
        return check_image(image, data=blobs is not None)


def test_good_images(built: Built, upstream: Built, fixtures_dir: Path) -> None:
    v6 = fixtures_dir / "rafs-v6-2.2"
    for bootstrap, blobs, chunks in (
        (built.bootstrap, built.blobs, None),
        (upstream.bootstrap, upstream.blobs, 23),
        (v6 / "rafs-v6-2.2.boot", v6, 2),
    ):
        report = checked(bootstrap, blobs)
        assert report.is_sound and report.faults == [] and report.warnings == []
        assert (
            report.counts["verified_chunks"] == report.counts["chunks"] == (chunks or report.counts["chunks"])
        )
        assert "unverified_chunks" not in report.counts
        assert checked(bootstrap).is_sound


@pytest.fixture
def broken(built: Built, tmp_path: Path) -> Callable[[int, bytes], Path]:
    """Make the folder of blobs again, with other bytes at an offset of the blob."""

    def change(offset: int, data: bytes) -> Path:
        (blob,) = built.blobs.iterdir()
        content = bytearray(blob.read_bytes())
        content[offset : offset + len(data)] = data
        (tmp_path / blob.name).write_bytes(content)
        return tmp_path

    return change


def test_a_wrong_chunk_is_named(built: Built, broken: Callable[[int, bytes], Path]) -> None:
    with built.open() as image:
        (chunk,) = image.chunks("/sizes/random-4097")
    blobs = broken(chunk.compressed_offset + 100, b"!")
    report = checked(built.bootstrap, blobs)
    (fault,) = report.faults
    assert (fault.file, fault.offset, fault.path) == (
        chunk.blob_id,
        chunk.compressed_offset,
        "/sizes/random-4097",
    )
    assert (
        f"chunk {chunk.chunk_idx}, up to byte {chunk.compressed_offset + chunk.compressed_size}" in fault.what
    )
    assert report.counts["verified_chunks"] == report.counts["chunks"] - 1


def test_a_blob_that_is_cut_or_missing(built: Built, tmp_path: Path) -> None:
    (blob,) = built.blobs.iterdir()
    assert "no such file" in checked(built.bootstrap, tmp_path).faults[0].what
    (tmp_path / blob.name).write_bytes(blob.read_bytes()[:5000])
    faults = checked(built.bootstrap, tmp_path).faults
    assert (faults[0].file, faults[0].offset) == (blob.name, 5000)
    assert "the blob ends here, its chunk data at" in faults[0].what


def test_metadata_of_a_blob(built: Built, broken: Callable[[int, bytes], Path]) -> None:
    with built.open() as image:
        record = image.image.blob(0)
    report = checked(built.bootstrap, broken(record.ci_offset + 5, b"\xff\xff"))
    assert (not report.is_sound and "'blob.meta'" in str(report.faults[0])) or "lz4" in str(report.faults[0])
    report = checked(built.bootstrap, broken(record.compressed_size - 600, b"\xff"))
    assert "the TOC's SHA-256 is not" in str(report.faults[0])


def test_an_inode_is_named(upstream: Built, tmp_path: Path) -> None:
    """Of inode 26 (/.../localtime), the number of chunks."""
    with upstream.open() as image:
        path = next(path for path, _ in image.walk() if path.endswith(b"/localtime"))
        offset = image.image.inode_offset(26)
        assert offset == 13000
    content = bytearray(upstream.bootstrap.read_bytes())
    content[offset + 96] = 2
    (tmp_path / "boot").write_bytes(content)
    report = checked(tmp_path / "boot")
    assert any(
        "contradicts the format" in fault.what and fault.path == path.decode() for fault in report.faults
    )


def test_digests_of_v5(upstream: Built, tmp_path: Path) -> None:
    with upstream.open() as image:
        offset = image.image.inode_offset(28)
        path = next(path for path, inode in image.walk() if inode.nid == 28)
    content = bytearray(upstream.bootstrap.read_bytes())
    content[offset + 3] ^= 1
    (tmp_path / "boot").write_bytes(content)
    faults = checked(tmp_path / "boot").faults
    assert (faults[0].offset, faults[0].path) == (offset, path.decode())
    assert all("has a digest that is not its content's" in fault.what for fault in faults)
    assert len(faults) == 2  # it, and its directory


@pytest.mark.parametrize("fs_version", [5, 6])
def test_each_byte_of_a_blob_counts(tmp_path: Path, fs_version: int) -> None:
    """But the reserved ones of its tables, which say nothing."""
    source, blobs = tmp_path / "source", tmp_path / "blobs"
    source.mkdir()
    for number in range(20):
        (source / str(number)).write_bytes(random.Random(number).randbytes(number * 100))
    build_image(source, tmp_path / "boot", blobs, BuildOptions(chunk_size=4096, fs_version=fs_version))
    (blob,) = blobs.iterdir()
    good = blob.read_bytes()
    chosen = random.Random(2)
    assert checked(tmp_path / "boot", blobs).is_sound
    for at in [0, len(good) - 1, *(chosen.randrange(len(good)) for _ in range(150))]:
        content = bytearray(good)
        content[at] ^= 1 << chosen.randrange(8)
        blob.write_bytes(content)
        assert not checked(tmp_path / "boot", blobs).is_sound, at
    for length in (0, 1, len(good) // 2, len(good) - 1):
        blob.write_bytes(good[:length])
        assert not checked(tmp_path / "boot", blobs).is_sound


SMALL = {"a": b"a" * 9000, "dir/b": b"b", "dir/c": bytes(range(256)) * 40}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Built:
    top = tmp_path_factory.mktemp("small")
    (top / "source" / "dir").mkdir(parents=True)
    for name, data in SMALL.items():
        (top / "source" / name).write_bytes(data)
    (top / "source" / "link").symlink_to("dir/b")
    (top / "source" / "hard").hardlink_to(top / "source" / "a")
    build_image(top / "source", top / "boot", top / "blobs", BuildOptions(chunk_size=4096))
    return Built(top / "source", top / "boot", top / "blobs")


class Discard:
    def write(self, data: bytes) -> int:
        return len(data)


def survive(bootstrap: Path, blobs: Path) -> bool:
    """Run the tools on what may be anything; True if `check` finds fault with it."""
    try:
        with rafs.open(bootstrap, blobs) as image:
            report = check_image(image)
            assert report.is_sound == (not report.faults)
            for tool in (lambda: inspect_image(image.image), lambda: unpack_tar(image, Discard())):  # type: ignore[arg-type]
                try:
                    tool()
                except (RafsError, OSError, OverflowError, ValueError) as error:
                    assert isinstance(error, RafsError | OSError), repr(error)
            return not report.is_sound
    except RafsError as error:
        assert str(error)
        return True


@pytest.mark.parametrize("which", ["small", "upstream"])
def test_mutated_bootstraps(request: pytest.FixtureRequest, which: str, tmp_path: Path) -> None:
    mutate(request.getfixturevalue(which), tmp_path, 250)


@pytest.mark.long
@pytest.mark.parametrize("which", ["small", "upstream"])
def test_many_mutated_bootstraps(request: pytest.FixtureRequest, which: str, tmp_path: Path) -> None:
    mutate(request.getfixturevalue(which), tmp_path, 10_000)


def mutate(built: Built, folder: Path, rounds: int) -> None:
    """Nothing crashes, hangs or takes memory; most of it is noticed."""
    good, chosen, found = built.bootstrap.read_bytes(), random.Random(7), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bootstrap = folder / "bootstrap"
    # zeros are skipped: most of an image is padding that nobody reads
    places = [at for at in range(len(good)) if any(good[max(0, at - 8) : at + 8])]
    for _ in range(rounds):
        content = bytearray(good)
        for _ in range(chosen.randint(1, 4)):
            at = chosen.choice(places)
            content[at] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, chosen.randrange(256)))
        if chosen.random() < 0.05:
            del content[chosen.randrange(len(content)) :]
        bootstrap.write_bytes(content)
        start = time.monotonic()
        found += survive(bootstrap, built.blobs)
        assert time.monotonic() - start < 20
    assert found > rounds // 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10  # KiB
