"""Which files are wanted first: paths to inodes, and the order of the data (format section 8.1).

A path is a file or a directory with all below it. Symlinks are not followed: the list names what is read.
"""

from __future__ import annotations

import enum
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from rafs.build.tree import Inode, Tree


class PrefetchPolicy(enum.Enum):
    """FS: their data first, and a table that tells readers; BLOB: their data first; NONE: neither."""

    FS = "fs"
    BLOB = "blob"
    NONE = "none"


def select(tree: Tree, paths: Sequence[bytes]) -> tuple[list[Inode], list[str]]:
    """Return the inodes of `paths`, each once and none below another; a warning for each that is missing."""
    found: dict[Inode, None] = {}
    covered: set[tuple[bytes, ...]] = set()
    warnings = []
    for path in paths:
        names = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
        if any(names[:length] in covered for length in range(len(names) + 1)):
            continue
        inode = _find(tree, names)
        if inode is None:
            warnings.append(f"{os.fsdecode(path)!r} is to be prefetched, but is not in the image")
            continue
        covered.add(names)
        found[inode] = None
    return list(found), warnings


def _find(tree: Tree, names: Sequence[bytes]) -> Inode | None:
    inode = tree.root
    for name in names:
        children = inode.children
        place = bisect_left(children, name, key=lambda child: child[0])
        if place == len(children) or children[place][0] != name:
            return None
        inode = children[place][1]
    return inode


def in_order(tree: Tree, first: Sequence[Inode]) -> Iterator[Inode]:
    """Yield all inodes of `tree`, those of `first` and what lies below them before the others."""
    given: set[Inode] = set()
    for start in first:
        waiting = [start]
        while waiting:
            inode = waiting.pop()
            if inode not in given:
                given.add(inode)
                yield inode
            waiting.extend(child for _, child in reversed(inode.children))
    yield from (inode for inode in tree.inodes if inode not in given)
