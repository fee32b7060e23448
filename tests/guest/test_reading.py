"""Every way to read, and mounting again: from a guest that reads a few files of known bytes."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.guest.backend import Image, run_on_image
from tests.guest.vm import Guest

#: over the last chunk border by an odd number
SIZE = (3 << 20) + 12_345


def content(seed: int) -> bytes:
    """SIZE bytes, the first MiB zeros (a hole, or a chunk that compresses to nothing), the rest random."""
    return bytes(1 << 20) + random.Random(seed).randbytes(SIZE - (1 << 20))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    work = tmp_path_factory.mktemp("reading")
    source = work / "source"
    source.mkdir()
    for seed in range(4):
        (source / f"file-{seed}").write_bytes(content(seed))
    with (source / "sparse").open("wb") as sparse:
        sparse.seek(5 << 20)
        sparse.write(b"the end")
    return Image(source, work)


def sums(image: Image) -> list[str]:
    """What `sha256sum *` says in the source."""
    files = sorted(image.source.iterdir())
    return [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in files]


@pytest.mark.parametrize("name", ["file-0", "sparse"])
def test_every_way_to_read(
    guest: Guest, image: Image, programs: dict[str, bytes | Path], tmp_path: Path, name: str
) -> None:
    script = f"mount -t virtiofs -o ro $TAG /mnt && readprobe /mnt/{name} /reference"
    files = {**programs, "/reference": (image.source / name).read_bytes()}
    result, _ = run_on_image(guest, image, script, tmp_path, files=files)
    assert (result.status, result.stderr) == (0, b"")


def test_unmount_and_mount_again(guest: Guest, image: Image, tmp_path: Path) -> None:
    """Each mount starts a FUSE session with INIT and ends it with DESTROY; the daemon and its cache go on."""
    script = """
    for turn in 1 2 3; do
        mount -t virtiofs -o ro $TAG /mnt || exit 100
        (cd /mnt && sha256sum *)
        umount /mnt || exit 101
    done
    """
    result, counted = run_on_image(guest, image, script, tmp_path)
    assert result.check().lines == sums(image) * 3
    assert counted.bytes_fetched <= sum(f.stat().st_size for f in image.blob_dir.iterdir())


def test_reading_again_after_the_guest_dropped_its_caches(guest: Guest, image: Image, tmp_path: Path) -> None:
    """drop_caches makes the guest forget inodes and pages: LOOKUP and READ come again, and hit."""
    script = """
    mount -t virtiofs -o ro $TAG /mnt || exit 100
    cd /mnt
    for turn in 1 2 3; do
        sha256sum *
        cd / && echo 3 >/proc/sys/vm/drop_caches && cd /mnt
    done
    """
    result, counted = run_on_image(guest, image, script, tmp_path)
    assert result.check().lines == sums(image) * 3
    assert counted.hits > counted.misses


def test_statfs(guest: Guest, image: Image, tmp_path: Path) -> None:
    """A full file system of FUSE's kind, as large as the data that differs: each file's but for the zeros."""
    script = "mount -t virtiofs -o ro $TAG /mnt && stat -f -c '%t %S %b %f %a %c %d %l' /mnt"
    result, _ = run_on_image(guest, image, script, tmp_path)
    kind, block_size, blocks, free, available, files, files_free, name_length = (
        result.check().lines[0].split()
    )
    assert (kind, free, available, files_free, name_length) == ("65735546", "0", "0", "0", "255")
    assert int(block_size) * int(blocks) >= 4 * (SIZE - (1 << 20))
    assert int(files) == 6
