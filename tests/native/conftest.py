"""Images that the tests of the data plane read: made once a run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.native.rig import BuiltImage
from tests.trees import make_nasty_tree


@pytest.fixture(scope="session")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """Some 3,000 entries of every kind, 64 KiB chunks."""
    top = tmp_path_factory.mktemp("nasty")
    make_nasty_tree(top / "source", small_files=200, large=False)
    return BuiltImage.build(top, chunk_size=64 << 10)


#: the one file of `plain`: 3 MiB and a bit, at 64 KiB a chunk, no two chunks alike
BIG_SIZE = (3 << 20) + 4321
BIG_CHUNK = 64 << 10


@pytest.fixture(scope="session")
def big() -> bytes:
    """The content of /big in `plain`."""
    return random.Random(5).randbytes(BIG_SIZE)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, big: bytes) -> BuiltImage:
    """/big, and /dir with three small files."""
    top = tmp_path_factory.mktemp("plain")
    folder: Path = top / "source" / "dir"
    folder.mkdir(parents=True)
    (top / "source" / "big").write_bytes(big)
    for name in ("a", "b", "c"):
        (folder / name).write_text(f"this is {name}\n")
    return BuiltImage.build(top, chunk_size=BIG_CHUNK)
