"""Single cases of stacking; tests/rafs/build/test_layer_properties.py has the random ones."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from rafs.build import BuildError, Whiteouts
from rafs.build.growth import GrowingTree, new_inode
from rafs.build.overlay import stack
from rafs.build.tree import Inode, Tree

DIRECTORY, FILE, CHARACTER = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFCHR


def layer(*paths: str, change: Callable[[GrowingTree], object] = lambda tree: None) -> Tree:
    """A layer of empty files; a path that ends in a slash is a directory of mode 0711."""
    tree = GrowingTree()
    for path in paths:
        *parents, name = os.fsencode(path.rstrip("/")).split(b"/")
        mode = stat.S_IFDIR | 0o711 if path.endswith("/") else FILE
        tree.put(tree.directory(parents), name, new_inode(os.fsencode(path), mode))
    change(tree)
    return tree.arrange()


def shown(tree: Tree) -> set[str]:
    """Paths of everything but the root, directories with a slash."""
    found = set()
    waiting: list[tuple[str, Inode]] = [("", tree.root)]
    while waiting:
        path, directory = waiting.pop()
        for name, inode in directory.children:
            below = path + os.fsdecode(name) + ("/" if inode.is_dir else "")
            found.add(below)
            if inode.is_dir:
                waiting.append((below, inode))
    return found


def test_oci_whiteouts() -> None:
    lower = layer("d/a", "d/b/", "d/b/c", "e", "f/x")
    upper = layer("d/.wh.a", "d/.wh.b", ".wh.missing", "f/.wh..wh..opq", "f/y")
    assert shown(stack([lower, upper], Whiteouts.OCI)) == {"d/", "e", "f/", "f/y"}


def test_a_whiteout_does_not_touch_its_own_layer() -> None:
    """A directory removed and made again does not show what the lower one had."""
    lower = layer("d/old", "f")
    upper = layer(".wh.d", "d/new", ".wh.f", "f")
    assert shown(stack([lower, upper], Whiteouts.OCI)) == {"d/", "d/new", "f"}


def test_a_third_layer_may_bring_a_name_back() -> None:
    layers = [layer("d/a"), layer("d/.wh.a"), layer("d/a/", "d/a/b")]
    assert shown(stack(layers, Whiteouts.OCI)) == {"d/", "d/a/", "d/a/b"}


def test_kinds_replace_each_other() -> None:
    layers = [layer("x/", "x/below", "y"), layer("x", "y/", "y/below")]
    assert shown(stack(layers, Whiteouts.OCI)) == {"x", "y/", "y/below"}


def test_a_directory_that_is_not_described_keeps_its_attributes() -> None:
    merged = stack([layer("d/"), layer("d/file")], Whiteouts.OCI)
    ((_, directory),) = merged.root.children
    assert directory.mode == stat.S_IFDIR | 0o711 and directory.xattrs == {}
    merged = stack([layer("d/file"), layer("d/")], Whiteouts.OCI)
    ((_, directory),) = merged.root.children
    assert directory.mode == stat.S_IFDIR | 0o711 and shown(merged) == {"d/", "d/file"}


def test_links_of_a_removed_name_are_counted_down() -> None:
    def link(tree: GrowingTree) -> None:
        file = tree.find([b"a"])
        assert file is not None
        tree.put(tree.root, b"b", file)

    merged = stack([layer("a", change=link), layer(".wh.a")], Whiteouts.OCI)
    ((name, inode),) = merged.root.children
    assert (name, inode.nlink) == (b"b", 1)


def test_overlayfs_whiteouts() -> None:
    def mark(tree: GrowingTree) -> None:
        tree.put(tree.root, b"gone", new_inode(b"gone", CHARACTER))
        empty = new_inode(b"d/x", FILE)
        empty.xattrs[b"user.overlay.whiteout"] = b""
        tree.put(tree.directory([b"d"]), b"x", empty)
        opaque = tree.directory([b"o"])
        opaque.xattrs[b"trusted.overlay.opaque"] = b"y"
        tree.directory([b"d"]).xattrs[b"trusted.overlay.opaque"] = b"x"  # has whiteouts, is not opaque
        tree.directory([b"d"]).xattrs[b"trusted.overlay.origin"] = b"..."

    lower = layer("gone", "d/x", "d/y", "o/old", ".wh.name")
    merged = stack([lower, layer("o/new", change=mark)], Whiteouts.OVERLAYFS)
    assert shown(merged) == {"d/", "d/y", "o/", "o/new", ".wh.name"}
    assert all(inode.xattrs == {} for inode in merged.inodes)


def test_a_renamed_directory_of_overlayfs_is_refused() -> None:
    def rename(tree: GrowingTree) -> None:
        tree.directory([b"new"]).xattrs[b"trusted.overlay.redirect"] = b"old"

    with pytest.raises(BuildError, match=r"'new' has overlayfs's attribute .*redirect_dir=off"):
        stack([layer("old/x"), layer(change=rename)], Whiteouts.OVERLAYFS)


def test_none_keeps_everything() -> None:
    kept = stack([layer("a", "d/.wh.b"), layer(".wh.a", "d/c")], Whiteouts.NONE)
    assert shown(kept) == {"a", ".wh.a", "d/", "d/.wh.b", "d/c"}
