"""The generated tree that the hit and cold benchmarks read, and its images.

`big` holds pseudo-random bytes (the same each time; no compressor gains on them), `mixed` bytes that compress
to about half, `d` a thousand small files. What stands in build/bench from an earlier run is used again.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from bench.place import WORK
from tests.guest.backend import Image

MIB = 1 << 20
SMALL_FILES = 1000


def tree(size_mib: int) -> Path:
    """The tree with a `big` and a `mixed` of that many MiB."""
    root = WORK / f"tree-{size_mib}"
    if root.exists():
        return root
    fresh = root.with_name(f"{root.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "d").mkdir(parents=True)
    source = random.Random(1)
    with (fresh / "big").open("wb") as big, (fresh / "mixed").open("wb") as mixed:
        for _ in range(size_mib):
            big.write(source.randbytes(MIB))
            for _ in range(MIB // 128):  # pieces of noise between repeated words
                mixed.write(source.randbytes(48) + b"chunk " * 13 + b"\n\n")
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
