"""Random operations on files of a shared directory, against copies in memory (tests/posix/fsx.c)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.guest.nydusd import run_on_share
from tests.guest.programs import static_programs
from tests.guest.vm import Guest
from tests.posix import suite

OPERATIONS = 10_000
SEED_OPERATIONS = 100_000
MANY_OPERATIONS = 1_000_000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("fsx") / "fsx"
    return static_programs(sorted(suite.HERE.glob("fsx*.c")), target, *suite.FLAGS)


def run(
    guest: Guest,
    program: Path,
    work: Path,
    seed: int,
    operations: int,
    timeout_s: float,
    options: Sequence[str] = (),
) -> None:
    folder = work / "share"
    folder.mkdir()
    script = f"fsx $SHARE {seed} {operations}"
    files = {"/bin/fsx": program}
    result = run_on_share(
        guest, folder, script, work, files=files, share_options=options, timeout_s=timeout_s
    )
    assert result.status == 0, result.stdout.decode()
    said, sizes = result.lines[-1].rsplit(", sizes ", 1)
    assert said == f"fsx: {operations} operations"
    on_the_host = {path.name.split("-")[1]: path.stat().st_size for path in folder.iterdir()}
    assert [on_the_host[number] for number in sorted(on_the_host)] == [int(size) for size in sizes.split()]


def test_some_operations(multi_queue_guest: Guest, program: Path, tmp_path: Path) -> None:
    run(multi_queue_guest, program, tmp_path, seed=20, operations=OPERATIONS, timeout_s=200)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_million_operations(multi_queue_guest: Guest, program: Path, tmp_path: Path) -> None:
    run(multi_queue_guest, program, tmp_path, seed=1, operations=MANY_OPERATIONS, timeout_s=7000)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_seeds(guest: Guest, program: Path, tmp_path: Path, seed: int) -> None:
    run(guest, program, tmp_path, seed=seed, operations=SEED_OPERATIONS, timeout_s=1000)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_guest_that_gathers_writes(multi_queue_guest: Guest, program: Path, tmp_path: Path) -> None:
    run(multi_queue_guest, program, tmp_path, 5, SEED_OPERATIONS, timeout_s=1000, options=["writeback"])
