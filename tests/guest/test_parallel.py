"""Eight readers on a cold cache: right bytes, and each chunk is fetched once however many wait for it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.guest.backend import Image, run_on_image
from tests.guest.vm import Guest

CHUNK = 64 << 10
READERS = 8

SCRIPT = f"""
mount -t virtiofs -o ro $TAG /mnt || exit 100
cd /mnt
readers=
for reader in $(seq {READERS}); do
    # all of the same first file, then each in an order of its own
    (sha256sum first && ls | grep -vx first | shuf | xargs sha256sum) >/tmp/$reader & readers="$readers $!"
done
for reader in $readers; do wait $reader || exit 101; done
for reader in $(seq {READERS}); do sort /tmp/$reader; done
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    work = tmp_path_factory.mktemp("parallel")
    source = work / "source"
    source.mkdir()
    numbers = random.Random(3)
    for number in range(20):
        (source / f"file-{number:02}").write_bytes(numbers.randbytes(numbers.randrange(1, 14 * CHUNK)))
    (source / "first").write_bytes(numbers.randbytes(20 * CHUNK + 1))
    (source / "again").write_bytes((source / "first").read_bytes())
    (source / "text").write_bytes(b"".join(b"%d\\n" % number for number in range(100_000)))
    return Image(source, work, "--chunk-size", str(CHUNK))


def distinct_chunks(folder: Path) -> int:
    pieces = set()
    for file in folder.iterdir():
        data = file.read_bytes()
        pieces |= {hashlib.sha256(data[at : at + CHUNK]).digest() for at in range(0, len(data), CHUNK)}
    return len(pieces)


def check(guest: Guest, image: Image, work: Path, queues: int) -> None:
    result, counted = run_on_image(guest, image, SCRIPT, work, queues=queues)
    files = sorted(image.source.iterdir())
    lines = sorted(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in files)
    assert result.check().lines == lines * READERS
    assert counted.chunks_fetched == distinct_chunks(image.source)
    assert counted.bytes_fetched <= sum(blob.stat().st_size for blob in image.blob_dir.iterdir())
    assert counted.misses > 0


def test_one_request_queue(guest: Guest, image: Image, tmp_path: Path) -> None:
    check(guest, image, tmp_path, queues=1)


def test_four_request_queues(multi_queue_guest: Guest, image: Image, tmp_path: Path) -> None:
    check(multi_queue_guest, image, tmp_path, queues=4)
