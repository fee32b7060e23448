"""Which build this is: in a clone, in a linked work tree, and in neither."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from vhostfs.nydusd.version import build_info, read_git_commit, version_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_text_is_what_clients_look_for() -> None:
    match = re.search(r"^Git Commit:\s*(.+)$", version_text(), re.MULTILINE)
    assert match is not None and match[1] == build_info().git_commit
    assert re.search(r"^Version: \d+\.\d+", version_text())
    assert all(isinstance(value, str) and value for value in build_info())


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@test"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_clone(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "branch/deep")
    assert read_git_commit(tmp_path) == "unknown"  # nothing is committed yet
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert read_git_commit(tmp_path) == commit
    git(tmp_path, "pack-refs", "--all")
    assert read_git_commit(tmp_path) == commit
    git(tmp_path, "checkout", "-q", "--detach")
    assert read_git_commit(tmp_path) == commit


def test_a_linked_work_tree(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    git(first, "init", "-q")
    git(first, "commit", "-q", "--allow-empty", "-m", "one")
    git(first, "worktree", "add", "-q", str(second), "-b", "other")
    git(second, "commit", "-q", "--allow-empty", "-m", "two")
    assert read_git_commit(second) == git(second, "rev-parse", "HEAD") != read_git_commit(first)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"ref: refs/heads/none"])
def test_no_clone(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "HEAD").write_bytes(content)
    assert read_git_commit(tmp_path) == "unknown"


def test_an_installed_package_knows_what_it_was_built_from(tmp_path: Path) -> None:
    """It has no .git to look at; setup.py has written it down."""
    environment = os.environ | {"VHOSTFS_GIT_COMMIT": COMMIT, "SOURCE_DATE_EPOCH": "86400"}
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(build, check=True, cwd=REPO, env=environment, capture_output=True)
    shown = subprocess.run(
        [sys.executable, "-c", "from vhostfs.nydusd.cli import main; main(['--version'])"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path / "lib",
    ).stdout
    assert f"Git Commit: {COMMIT}\n" in shown and "Build Time: 1970-01-02T00:00:00Z\n" in shown
    assert not (REPO / "vhostfs" / "_build.py").exists()
