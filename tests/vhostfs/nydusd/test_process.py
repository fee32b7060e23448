"""What a process gets ready before it serves: its limit of open files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vhostfs.nydusd import process

NOFILE = resource.RLIMIT_NOFILE


class Limits:
    """Stands in for the process's limits; `may_raise`: the right to go over the hard one."""

    def __init__(self, soft: int, hard: int, may_raise: bool) -> None:
        self.now, self._may_raise = (soft, hard), may_raise

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == NOFILE
        return self.now

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == NOFILE and limits[0] <= limits[1]
        if limits[1] > self.now[1] and not self._may_raise:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[Limits]:
    limits = Limits(*request.param)
    monkeypatch.setattr(resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limits.setrlimit)
    yield limits


@pytest.mark.parametrize(
    ("limits", "wanted", "after"),
    [
        ((1024, 4096, True), 50_000, (50_000, 50_000)),
        ((1024, 90_000, False), 50_000, (50_000, 90_000)),
        ((1024, 4096, False), 50_000, (4096, 4096)),
        ((1024, 4096, True), 0, (1024, 4096)),
        ((2048, 4096, True), 1024, (2048, 4096)),  # never less than there is
        ((1024, 4096, True), 10_000_000, (1_000_000, 1_000_000)),
    ],
    indirect=["limits"],
)
def test_the_limit_of_open_files(limits: Limits, wanted: int, after: tuple[int, int]) -> None:
    assert int(Path("/proc/sys/fs/file-max").read_text()) > 1_100_000
    process.raise_file_limit(wanted)
    assert limits.now == after


@pytest.mark.parametrize("limits", [(1024, 4096, True)], indirect=True)
def test_a_machine_with_few_files(limits: Limits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "FILE_MAX", tmp_path / "file-max")
    process.FILE_MAX.write_text("20000\n")
    process.raise_file_limit(1_000_000)
    assert limits.now == (20_000 - 16_384, 4096)
    process.FILE_MAX.write_text("16000\n")
    with pytest.raises(OSError, match="open files") as caught:
        process.raise_file_limit(1_000_000)
    assert caught.value.filename == str(tmp_path / "file-max")
