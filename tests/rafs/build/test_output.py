"""Output files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rafs.build import BuildError
from rafs.build.output import PendingFile


def test_commit_replaces_at_once(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"old")
    with PendingFile(tmp_path, "blob") as file:
        file.write(b"new ")
        file.write(bytearray(b"content"))
        assert (tmp_path / "name").read_bytes() == b"old"
        assert file.commit("name") == tmp_path / "name"
    assert list(tmp_path.iterdir()) == [tmp_path / "name"]
    assert (tmp_path / "name").read_bytes() == b"new content"


def test_content_is_durable_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, list[str]]] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        steps.append((kind, [path.name for path in tmp_path.iterdir() if path.name == "name"]))
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with PendingFile(tmp_path, "blob") as file:
        file.write(b"content")
        file.commit("name")
    assert steps == [("file", []), ("folder", ["name"])]


def test_folder_is_made_and_umask_respected(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        with PendingFile(tmp_path / "a" / "b", "blob") as file:
            file.commit("name")
    finally:
        os.umask(previous)
    assert (tmp_path / "a" / "b" / "name").stat().st_mode & 0o777 == 0o640


def test_nothing_stays_without_commit(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), PendingFile(tmp_path, "blob") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PendingFile(tmp_path, "blob") as file:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file._fd)
        os.close(full)
        with pytest.raises(
            BuildError, match=f"cannot write the blob in '{tmp_path}': No space left on device"
        ):
            file.write(b"data")
    assert list(tmp_path.iterdir()) == []


def test_wrong_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BuildError, match=f"cannot write the blob in '{tmp_path}/file'"),
        PendingFile(tmp_path / "file", "blob"),
    ):
        raise AssertionError("not reached")
