"""The load generator notices what is wrong, finds nothing wrong with the daemon, and no hit held up."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from bench import loadgen
from bench.loadgen import Load, Result
from bench.place import BenchError
from tests.guest.backend import Backend, Image

MIB = 1 << 20
PATTERNS = [
    "lookup:1",
    "lookupdir:32",
    "getattr:8",
    "randread4k:32",
    "randread128k:2",
    "seqread4k:3",
    "seqread128k:8",
    "seqread1m:8",
    "scatread128k:8",
    "scatread1m:1",
    "readdirplus:8",
    "readdirplus4k:32",
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    work = tmp_path_factory.mktemp("loadgen")
    source = work / "source"
    (source / "d" / "below").mkdir(parents=True)
    noise = random.Random(1)
    (source / "big").write_bytes(noise.randbytes(3 * MIB + 123))
    (source / "cold").write_bytes(noise.randbytes(24 * MIB))
    for number in range(60):
        (source / "d" / f"file-{number}").write_bytes(noise.randbytes(number))
    (source / "d" / "link").symlink_to("file-1")
    return Image(source, work)


def serve(image: Image, work: Path, *, queues: int = 1, delay_s: float = 0, stall_s: float = 0) -> Backend:
    socket = work / "socket"
    command: list[str | Path] = [sys.executable, "-m", "bench.faulty", "--socket", socket]
    command += ["--bootstrap", image.bootstrap, "--blob-dir", image.blob_dir, "--cache-dir", work / "cache"]
    command += ["--statistics", work / "statistics", "--num-request-queues", str(queues)]
    command += ["--delay", str(delay_s), "--stall", str(stall_s)]
    return Backend(command, socket, work / "log")


def hit_beside(backend: Backend, seconds: float, *options: str) -> tuple[Result, Load]:
    """One hit at a time, beside reads of the cold file on the same queue."""
    pid = str(backend.process.pid)
    command = ["-f", "big", "-d", "d", "-W", "-w", "randread4k:1", "-s", str(seconds), "-p", pid, *options]
    (line,) = loadgen.run(backend.socket, *command)
    hits, beside = loadgen.parse_result(line)
    assert beside
    return hits, beside


@pytest.mark.parametrize("queues", [1, 4])
def test_every_pattern_is_answered_right_and_compared(image: Image, tmp_path: Path, queues: int) -> None:
    with serve(image, tmp_path, queues=queues) as backend:
        options = ["-f", "big", "-d", "d", "-v", str(image.source), "-q", str(queues), "-s", "0.05"]
        verified, *lines = loadgen.run(backend.socket, *options, "-w", ",".join(PATTERNS))
    assert json.loads(verified) == {"verified_reads": 32, "verified_entries": 62, "bad": 0}
    results = [loadgen.parse_result(line)[0] for line in lines]
    assert [f"{r.workload}:{r.queue_depth}" for r in results] == PATTERNS
    assert all(r.operations >= r.queue_depth and r.request_queues == queues for r in results)


def test_other_data_and_other_metadata_are_noticed(image: Image, tmp_path: Path) -> None:
    local = tmp_path / "local"
    shutil.copytree(image.source, local, symlinks=True)
    with (local / "big").open("r+b") as file:
        file.seek(3 * MIB + 100)
        (byte,) = file.read(1)
        file.seek(3 * MIB + 100)
        file.write(bytes([byte ^ 1]))
    (local / "d" / "file-7").chmod(0o600)
    with serve(image, tmp_path) as backend, pytest.raises(BenchError) as caught:
        loadgen.run(backend.socket, "-f", "big", "-d", "d", "-v", local)
    assert f"READ of {MIB} bytes at {3 * MIB}: 123, not 123; wrong data" in str(caught.value)
    assert "d/file-7: other attributes" in str(caught.value)
    assert '"bad": 2}' in str(caught.value)


def test_a_sequential_pass_ends_with_the_file(image: Image, tmp_path: Path) -> None:
    with serve(image, tmp_path) as backend:
        options = ["-f", "big", "-d", "d", "-1", "-w", "seqread128k:8"]
        (result,) = loadgen.measure(backend.socket, *options)
    assert result.operations == 3 * MIB // (128 << 10)
    counted = json.loads((tmp_path / "statistics").read_text())
    assert counted["misses"] >= 3


def test_hits_go_on_while_python_is_stalled(image: Image, tmp_path: Path) -> None:
    with serve(image, tmp_path, delay_s=0.05, stall_s=2.5) as backend:
        hits, miss = hit_beside(backend, 2, "-b", "randread128k:1:cold", "-k")
    assert miss.worst_us > 2e6, "a miss was answered: Python was not stalled"
    assert hits.worst_us < 1e6
    assert hits.operations > 100


def test_hits_go_on_while_misses_wait(image: Image, tmp_path: Path) -> None:
    with serve(image, tmp_path, delay_s=1.5) as backend:
        hits, misses = hit_beside(backend, 1, "-b", "randread128k:8:cold")
    assert misses.worst_us > 1.4e6
    assert misses.bad == 0
    assert hits.worst_us < 1e6
    assert hits.operations > 100
