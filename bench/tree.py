"""The generated tree that the hit and cold benchmarks read, and its images.

`big` holds pseudo-random bytes (the same each time; no compressor gains on them), `mixed` the bytes of real
programs (the files of the demo's root file system, one after the other, some 100 MB), `d` a thousand small
files. What stands in build/bench from an earlier run is used again.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from bench.place import WORK
from tests.guest import debian
from tests.guest.backend import Image

MIB = 1 << 20
SMALL_FILES = 1000


def tree(size_mib: int) -> Path:
    """The tree with a `big` of that many MiB. Raises PackageError."""
    root = WORK / f"tree-{size_mib}"
    if root.exists():
        return root
    fresh = root.with_name(f"{root.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "d").mkdir(parents=True)
    source = random.Random(1)
    with (fresh / "big").open("wb") as big:
        for _ in range(size_mib):
            big.write(source.randbytes(MIB))
    with (fresh / "mixed").open("wb") as mixed:
        for path in sorted(debian.python_root().rglob("*")):
            if path.is_file() and not path.is_symlink():
                mixed.write(path.read_bytes())
        mixed.truncate(mixed.tell() // MIB * MIB)
    for number in range(SMALL_FILES):
        (fresh / "d" / f"file-{number:04}").write_bytes(source.randbytes(number * 7))
    fresh.rename(root)
    return root


def image(size_mib: int, compressor: str = "lz4_block") -> Image:
    """The image of that tree, built anew: the builder may have changed."""
    folder = WORK / f"image-{size_mib}-{compressor}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Image(tree(size_mib), folder, "--compressor", compressor)
