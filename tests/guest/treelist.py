"""The lines of treelist.c as the entries of tests.trees, so that a guest's view compares with a host's."""

from __future__ import annotations

import dataclasses
import os
import stat

from tests.trees import Entry


def parse(lines: list[str]) -> dict[bytes, Entry]:
    """Entries by path; `link_of` is the first name of an inode in sorted order."""
    found: dict[bytes, Entry] = {}
    names: dict[str, bytes] = {}  # inode number to its first name
    rows = sorted((_bytes(path) or b".", rest) for path, *rest in (line.split(" ") for line in lines))
    for path, (mode, uid, gid, size, mtime_s, mtime_ns, nlink, rdev, ino, sha256, target, xattrs) in rows:
        kind = int(mode, 8)
        major, minor = map(int, rdev.split(":"))
        pairs = [pair.split("=") for pair in xattrs.split(",")] if xattrs != "-" else []
        found[path] = Entry(
            mode=kind,
            uid=int(uid),
            gid=int(gid),
            size=0 if stat.S_ISDIR(kind) else int(size),
            mtime_ns=int(mtime_s) * 10**9 + int(mtime_ns),
            nlink=int(nlink),
            rdev=os.makedev(major, minor) if stat.S_ISBLK(kind) or stat.S_ISCHR(kind) else 0,
            link_of=names.setdefault(ino, path),
            target=_bytes(target),
            xattrs={_bytes(name): _bytes(value) for name, value in pairs},
            sha256=sha256.strip("-"),
        )
    if len(found) != len(lines):
        raise AssertionError(f"{len(lines)} lines but {len(found)} paths: a name came twice")
    return found


def with_sorted_links(entries: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """`entries` with `link_of` as `parse` gives it: the first name in sorted order, not in walking order."""
    names: dict[bytes, bytes] = {}
    for path in sorted(entries):
        names.setdefault(entries[path].link_of, path)
    return {path: dataclasses.replace(entry, link_of=names[entry.link_of]) for path, entry in entries.items()}


def _bytes(column: str) -> bytes:
    return b"" if column == "-" else bytes.fromhex(column)
