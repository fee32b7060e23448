"""One cache directory, several processes, some of them killed: every READY chunk has its bytes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.blobs import BLOB_ID, ZSTD, FakeBlob, make_blob, make_chunks

REPO = Path(__file__).resolve().parents[2]
COUNT = 240


@pytest.fixture(scope="module")
def fake() -> FakeBlob:
    return make_blob(make_chunks([1 + 997 * i % 40_000 for i in range(COUNT)]), codec=ZSTD)


@pytest.fixture
def blobs(tmp_path: Path, fake: FakeBlob) -> Path:
    directory = tmp_path / "blobs"
    directory.mkdir()
    (directory / BLOB_ID).write_bytes(fake.content)
    return directory


@contextmanager
def filler(cache: Path, blobs: Path, fake: FakeBlob) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.fakes.filler", str(cache), str(blobs), fake.entry.hex()]
    with subprocess.Popen(
        command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def ready(cache: Path) -> set[int]:
    bits = (cache / f"{BLOB_ID}.blob.data.chunk_map").read_bytes()[4096:]
    return {index for index in range(COUNT) if bits[index // 8] & 0x80 >> index % 8}


def check_ready_chunks(cache: Path, fake: FakeBlob) -> set[int]:
    indices = ready(cache)
    data = (cache / f"{BLOB_ID}.blob.data").read_bytes()
    wrong = [i for i in indices if data[fake.offsets[i] :][: len(fake.chunks[i])] != fake.chunks[i]]
    assert wrong == []
    return indices


def test_two_processes_fill_one_cache(tmp_path: Path, blobs: Path, fake: FakeBlob) -> None:
    cache = tmp_path / "cache"
    with filler(cache, blobs, fake) as one, filler(cache, blobs, fake) as other:
        for process in (one, other):
            assert line_of(process) == "open"
        for process in (one, other):
            go(process)
        for process in (one, other):
            out, err = process.communicate()
            assert (process.returncode, err) == (0, "")
            assert out.split()[-1] == str(COUNT)  # the other one's chunks are READY here too
    assert check_ready_chunks(cache, fake) == set(range(COUNT))
    assert (cache / f"{BLOB_ID}.blob.data").read_bytes() == fake.image()
    assert not (cache / f"{BLOB_ID}.blob.data.unsynced").exists()


def test_killed_at_any_moment(tmp_path: Path, blobs: Path, fake: FakeBlob) -> None:
    cache = tmp_path / "cache"
    found: list[int] = []
    for lines in (1, 2, 5, 9):
        with filler(cache, blobs, fake) as process:
            assert line_of(process) == "open"
            go(process)
            for _ in range(lines):
                line_of(process)
            process.kill()
            process.wait()
        found.append(len(check_ready_chunks(cache, fake)))
        assert (cache / f"{BLOB_ID}.blob.data.unsynced").exists()
    assert found == sorted(found) and found[0] > 0
    with filler(cache, blobs, fake) as process:
        out, err = process.communicate("\n")
        assert (process.returncode, err) == (0, "")
        assert out.split()[-1] == str(COUNT)
    assert check_ready_chunks(cache, fake) == set(range(COUNT))
    assert not (cache / f"{BLOB_ID}.blob.data.unsynced").exists()
