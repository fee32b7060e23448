"""The nasty tree and its description, made once for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trees import Entry, describe, make_nasty_tree


@pytest.fixture(scope="session")
def nasty_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nasty") / "tree"
    make_nasty_tree(root)
    return root


@pytest.fixture(scope="session")
def nasty_entries(nasty_tree: Path) -> dict[bytes, Entry]:
    return describe(nasty_tree)
