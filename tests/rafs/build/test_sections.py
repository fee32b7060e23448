"""Tar headers, against Python's own tarfile and a header that the reference wrote."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from rafs.build.sections import BLOB_DATA, TOC, pack_tar_header


@pytest.mark.parametrize("size", [0, 1, 511, 1 << 20, (8 << 30) - 1, 8 << 30, 1 << 40])
def test_tarfile_reads_the_header(size: int) -> None:
    found = tarfile.TarInfo.frombuf(pack_tar_header(BLOB_DATA, size), "ascii", "strict")
    assert (found.name, found.size, found.type) == ("image.blob", size, tarfile.REGTYPE)
    assert (found.mode, found.mtime, found.uid) == (0, 0, 0)


def test_header_is_the_one_of_the_reference(fixtures_dir: Path) -> None:
    (blob,) = (fixtures_dir / "blob-toc").iterdir()
    assert pack_tar_header(TOC, 512) == blob.read_bytes()[-512:]
