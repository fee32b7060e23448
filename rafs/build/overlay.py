"""Layers on top of each other: whiteouts are consumed here, and never part of an image (format section 8.2).

Two ways to write them down, and `NONE`, which takes every file for what it is:

- OCI: a file `.wh.NAME` removes NAME of the layers below, `.wh..wh..opq` all that is below in its directory;
  other names that begin with `.wh..wh.` are AUFS's own, and dropped.
- overlayfs: a character device 0:0, or an empty file with the attribute `overlay.whiteout`, removes its name;
  a directory with `overlay.opaque` = y hides what is below. The attributes begin with `trusted.` or `user.`.

A whiteout acts on lower layers only: what its own layer has under that name stands, and is not merged with
what was there. Attributes of a directory are those of the uppermost layer that describes it.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterable, Sequence

from rafs.build.errors import BuildError
from rafs.build.growth import IMPLIED_XATTR, GrowingTree
from rafs.build.tree import Inode, Tree

_PREFIX = b".wh."
_META_PREFIX = b".wh..wh."
_OPAQUE_NAME = b".wh..wh..opq"
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
#: attributes that say that the file is not what it seems; what they stand for is not in the layer
_UNREADABLE = {b"redirect": "redirect_dir=off", b"metacopy": "metacopy=off"}


class Whiteouts(enum.Enum):
    """How a layer says what it removes."""

    OCI = "oci"
    OVERLAYFS = "overlayfs"
    NONE = "none"


def stack(layers: Iterable[Tree], spec: Whiteouts, warnings: Sequence[str] = ()) -> Tree:
    """Return the tree that `layers`, lowest first, show together. Their inodes become its own."""
    grown = GrowingTree()
    for layer in layers:
        _apply(grown, layer, spec)
    if spec is not Whiteouts.NONE:
        for directory in grown.names:
            directory.xattrs.pop(IMPLIED_XATTR, None)
    return grown.arrange(warnings)


def _apply(grown: GrowingTree, layer: Tree, spec: Whiteouts) -> None:
    if not _is_implied(layer.root):
        grown.replace_root(layer.root)
    waiting = [(grown.root, layer.root)]
    while waiting:
        target, upper = waiting.pop()
        names = grown.names[target]
        removed, is_opaque, entries = _READERS[spec](upper)
        if is_opaque:
            names.clear()
        for name in removed:
            names.pop(name, None)
        for name, inode in entries:
            old = names.get(name)
            if inode.is_dir and old is not None and old.is_dir and _is_implied(inode):
                waiting.append((old, inode))
                continue
            grown.put(target, name, inode)
            if inode.is_dir:
                waiting.append((inode, inode))


def _is_implied(inode: Inode) -> bool:
    return IMPLIED_XATTR in inode.xattrs


_Reading = tuple[list[bytes], bool, list[tuple[bytes, Inode]]]


def _read_plain(directory: Inode) -> _Reading:
    return [], False, directory.children


def _read_oci(directory: Inode) -> _Reading:
    """What the directory removes, whether it is opaque, and its real entries."""
    removed, entries, is_opaque = [], [], False
    for name, inode in directory.children:
        if not name.startswith(_PREFIX):
            entries.append((name, inode))
        elif name.startswith(_META_PREFIX):
            is_opaque = is_opaque or name == _OPAQUE_NAME
        else:
            target = name[len(_PREFIX) :]
            if target in (b"", b".", b".."):
                raise BuildError(f"whiteout {os.fsdecode(inode.path)!r} names nothing that could be removed")
            removed.append(target)
    return removed, is_opaque, entries


def _read_overlayfs(directory: Inode) -> _Reading:
    is_opaque = b"y" in _take_overlay_xattrs(directory, b"opaque")
    removed, entries = [], []
    for name, inode in directory.children:
        is_whiteout = stat.S_ISCHR(inode.mode) and inode.rdev == 0
        if inode.is_regular:
            is_whiteout = bool(_take_overlay_xattrs(inode, b"whiteout")) and inode.size == 0
        elif not inode.is_dir:
            _take_overlay_xattrs(inode, b"")
        if is_whiteout:
            removed.append(name)
        else:
            entries.append((name, inode))
    return removed, is_opaque, entries


def _take_overlay_xattrs(inode: Inode, wanted: bytes) -> list[bytes]:
    """Remove overlayfs's own attributes from `inode`; return the values of the `wanted` one."""
    values = []
    for name in list(inode.xattrs):
        prefix = next((prefix for prefix in _OVERLAY_XATTRS if name.startswith(prefix)), None)
        if prefix is None:
            continue
        suffix = name[len(prefix) :]
        if suffix in _UNREADABLE:
            raise BuildError(
                f"{os.fsdecode(inode.path)!r} has overlayfs's attribute {os.fsdecode(name)!r}, so what "
                f"it shows is not in this layer; make the layer with {_UNREADABLE[suffix]}"
            )
        value = inode.xattrs.pop(name)
        if suffix == wanted:
            values.append(value)
    return values


_READERS = {Whiteouts.OCI: _read_oci, Whiteouts.OVERLAYFS: _read_overlayfs, Whiteouts.NONE: _read_plain}
