"""Images for the tools: a nasty tree as our builder packs it, and upstream's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import rafs
from rafs.build import BuildOptions, build_image
from rafs.filesystem import Filesystem
from tests.trees import make_nasty_tree


@dataclass(frozen=True)
class Built:
    """A source tree, and the image that was made of it."""

    source: Path
    bootstrap: Path
    blobs: Path

    def open(self) -> Filesystem:
        return rafs.open(self.bootstrap, self.blobs)


@pytest.fixture(scope="session")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 3,000 entries of every kind, 40 MiB."""
    root = tmp_path_factory.mktemp("tools") / "source"
    make_nasty_tree(root, small_files=200, large=False)
    return root


@pytest.fixture(scope="session")
def built(nasty: Path) -> Built:
    """The nasty tree as an image."""
    top = nasty.parent / "v6"
    build_image(nasty, top / "bootstrap", top / "blobs", BuildOptions(chunk_size=64 << 10))
    return Built(nasty, top / "bootstrap", top / "blobs")


@pytest.fixture
def upstream(fixtures_dir: Path) -> Built:
    """RAFS v5 of upstream's builder; there is no source."""
    folder = fixtures_dir / "rafs-v5-lz4"
    return Built(folder, folder / "image.boot", folder)
