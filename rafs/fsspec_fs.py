"""Images for fsspec: `fsspec.filesystem("rafs", bootstrap="image.boot", blobs="blobs")`.

Read-only. Paths are str; bytes of names that are not UTF-8 come as surrogates (os.fsdecode). Symlinks are
shown, and not followed. Needs the package `fsspec`, which vhostfs does not install by itself: `pip install
vhostfs[fsspec]`.
"""

from __future__ import annotations

import io
import os
import stat
from datetime import UTC, datetime
from typing import Any

from fsspec.spec import AbstractFileSystem

import rafs
from native.dataplane import Inode
from rafs.filesystem import Blobs

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


class RafsFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """See the module, and fsspec's own documentation for what each method does."""

    protocol = "rafs"
    root_marker = "/"
    cachable = False

    def __init__(self, bootstrap: str | os.PathLike[str], blobs: Blobs = (), **options: Any) -> None:
        super().__init__(**options)
        self.image = rafs.open(bootstrap, blobs)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        return self._describe(name, self.image.stat(os.fsencode(name)))

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        folder = self._strip_protocol(path)
        inode = self.image.stat(os.fsencode(folder))
        if not stat.S_ISDIR(inode.mode):
            found = [self._describe(folder, inode)]
        else:
            names = [os.fsdecode(name) for name in self.image.listdir(os.fsencode(folder))]
            found = [self.info(f"{folder.rstrip('/')}/{name}") for name in names]
        return found if detail else [entry["name"] for entry in found]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        name = os.fsencode(self._strip_protocol(path))
        size = self.image.stat(name).size
        first, last = slice(start, end).indices(size)[:2]
        return self.image.read(name, first, max(last - first, 0))

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def close(self) -> None:
        """Give back the image."""
        self.image.close()

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        stripped: str = super()._strip_protocol(path)
        return stripped if stripped.startswith("/") else f"/{stripped}"

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BufferedReader:
        if mode != "rb":
            raise OSError(30, "images are read-only", path)
        return self.image.open(os.fsencode(path))

    def _describe(self, name: str, inode: Inode) -> dict[str, Any]:
        facts = {
            "name": name,
            "size": inode.size,
            "type": _KINDS.get(stat.S_IFMT(inode.mode), "other"),
            "ino": inode.nid,
            "mode": inode.mode,
            "uid": inode.uid,
            "gid": inode.gid,
            "nlink": inode.nlink,
            "mtime": inode.mtime + inode.mtime_nsec / 1e9,
            "islink": stat.S_ISLNK(inode.mode),
        }
        if facts["islink"]:
            facts["destination"] = os.fsdecode(self.image.image.readlink(inode.nid))
        return facts
