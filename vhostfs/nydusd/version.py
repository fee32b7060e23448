"""What this build is: the same words for `--version` and for the API.

nydus-snapshotter compares the commit that a live daemon tells with that of the binary (contract 4.1), so both
come from here. An installed package has it in `vhostfs/_build.py`, which setup.py writes into what it builds;
a clone has none, and its HEAD is read. What cannot be known is "unknown", in both places.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import vhostfs

UNKNOWN = "unknown"


class BuildInfo(NamedTuple):
    """Named as the API names them."""

    package_ver: str
    git_commit: str
    build_time: str
    profile: str
    rustc: str


@cache
def build_info() -> BuildInfo:
    """As of the first call: a clone may change under a running daemon, and that must show."""
    commit, time = UNKNOWN, UNKNOWN
    try:
        from vhostfs import _build  # type: ignore[attr-defined, unused-ignore]  # not in a clone
    except ImportError:
        commit = read_git_commit(Path(__file__).resolve().parents[2])
    else:
        commit, time = _build.GIT_COMMIT, _build.BUILD_TIME
    # No Rust here; its line says what stands in for it.
    return BuildInfo(vhostfs.__version__, commit, time, "release", f"none, Python {sys.version.split()[0]}")


def version_text() -> str:
    """What `--version` prints."""
    info = build_info()
    labels = ("Version:", "Git Commit:", "Build Time:", "Profile:", "Rustc:")
    return "".join(f"{label} {value}\n" for label, value in zip(labels, info, strict=True))


def read_git_commit(top: Path) -> str:
    """The commit that is checked out in `top`, a work tree of git; or "unknown"."""
    try:
        git = top / ".git"
        if git.is_file():  # of a linked work tree: the line "gitdir: PATH"
            git = top / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head or UNKNOWN
        ref = head.removeprefix("ref:").strip()
        common = git / "commondir"
        folders = [git, git / common.read_text().strip()] if common.exists() else [git]
        for folder in folders:
            if (folder / ref).is_file():
                return (folder / ref).read_text().strip()
        for line in (folders[-1] / "packed-refs").read_text().splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return commit
    except (OSError, UnicodeDecodeError):
        pass
    return UNKNOWN
