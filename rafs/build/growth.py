"""A tree that still changes: names are put in, replaced and removed; `arrange` makes a Tree of it.

Tar archives and stacks of layers grow here. Paths are lists of names below the root, which is always there.
As container runtimes unpack: a name replaces what had it, but a directory put over a directory keeps its
content; parents that nobody named are made, and marked as *implied*; symlinks on the way to a name are
followed, and never lead out of the root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from rafs.build.errors import BuildError
from rafs.build.tree import Inode, Tree

#: on a directory that a layer does not describe: those of a lower layer stand. Gone once layers are merged.
IMPLIED_XATTR = b"trusted.vhostfs.implied"
_MAX_SYMLINKS = 255
_NO_STAMP = (0, 0, 0, 0, 0)


def new_inode(path: bytes, mode: int, uid: int = 0, gid: int = 0, mtime_ns: int = 0) -> Inode:
    """An inode outside of any tree yet."""
    return Inode(path, 0, mode, uid, gid, 0, mtime_ns, 0, _NO_STAMP)


def implied_directory(path: bytes) -> Inode:
    inode = new_inode(path, stat.S_IFDIR | 0o755)
    inode.xattrs[IMPLIED_XATTR] = b"y"
    return inode


class GrowingTree:
    """`names[directory]` has the names in it. What cannot be reached from `root` is no part of the tree."""

    def __init__(self) -> None:
        self.root = implied_directory(b"/")
        self.names: dict[Inode, dict[bytes, Inode]] = {self.root: {}}

    def replace_root(self, inode: Inode) -> None:
        """Let `inode`, a directory, have the root's place and names."""
        self.names[inode] = self.names.pop(self.root)
        self.root = inode

    def put(self, directory: Inode, name: bytes, inode: Inode) -> None:
        """Give `inode` that name; where both are directories the names below stay."""
        names = self.names[directory]
        old = names.get(name)
        if inode.is_dir:
            self.names[inode] = self.names.pop(old) if old is not None and old.is_dir else {}
        names[name] = inode

    def find(self, path: Sequence[bytes]) -> Inode | None:
        """What `path` names; symlinks are followed on the way, the last one not."""
        if not path:
            return self.root
        directory = self._walk(path[:-1], create=False)
        return None if directory is None else self.names[directory].get(path[-1])

    def directory(self, path: Sequence[bytes]) -> Inode:
        """The directory `path`, made where it is missing. Raises BuildError where a file is in the way."""
        found = self._walk(path, create=True)
        assert found is not None
        return found

    def _walk(self, path: Sequence[bytes], *, create: bool) -> Inode | None:
        trail = [self.root]
        waiting = list(reversed(path))
        hops = 0
        while waiting:
            name = waiting.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            child = self.names[trail[-1]].get(name)
            if child is None:
                if not create:
                    return None
                child = implied_directory(b"/".join(path))
                self.put(trail[-1], name, child)
            elif stat.S_ISLNK(child.mode):
                hops += 1
                if hops > _MAX_SYMLINKS:
                    raise BuildError(f"{_shown(path)} goes through a loop of symlinks")
                if child.target.startswith(b"/"):
                    trail = [self.root]
                waiting.extend(reversed(child.target.split(b"/")))
                continue
            elif not child.is_dir:
                if not create:
                    return None
                raise BuildError(f"{_shown(path)}: {os.fsdecode(name)!r} on the way is not a directory")
            trail.append(child)
        return trail[-1]

    def arrange(self, warnings: Sequence[str] = ()) -> Tree:
        """Number the inodes in tree order, count links, and return the Tree. The last call on this object."""
        root = self.root
        root.nlink, root.parent = 2, None
        inodes: list[Inode] = []
        placed: set[Inode] = set()

        def place(inode: Inode) -> None:
            inodes.append(inode)
            inode.ino = len(inodes)
            placed.add(inode)

        place(root)
        entry_count = 1
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            directory.children = sorted(self.names[directory].items())
            entry_count += len(directory.children)
            below = []
            for _, inode in directory.children:
                if inode.is_dir:
                    inode.parent, inode.nlink = directory, 2
                    directory.nlink += 1
                    below.append(inode)
                elif inode in placed:
                    inode.nlink += 1
                    continue
                else:
                    inode.nlink = 1
                place(inode)
            waiting.extend(reversed(below))
        return Tree(inodes, entry_count, list(warnings))


def _shown(path: Sequence[bytes]) -> str:
    return repr(os.fsdecode(b"/".join(path)))
