"""The inline extended attribute area of an inode (format section 2.11). Pure functions.

Entries are sorted by full name, so that the same attributes give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from native.rafs_v6 import (
    EROFS_XATTR_POSIX_ACL_ACCESS,
    EROFS_XATTR_POSIX_ACL_DEFAULT,
    EROFS_XATTR_SECURITY,
    EROFS_XATTR_TRUSTED,
    EROFS_XATTR_USER,
)
from native.records import Record
from rafs.build.errors import BuildError

MAX_NAME = 255
MAX_VALUE = 65535
MAX_ICOUNT = 65535

#: (prefix, index on disk, whether the prefix is the whole name)
_PREFIXES = (
    (b"user.", EROFS_XATTR_USER, False),
    (b"system.posix_acl_access", EROFS_XATTR_POSIX_ACL_ACCESS, True),
    (b"system.posix_acl_default", EROFS_XATTR_POSIX_ACL_DEFAULT, True),
    (b"trusted.", EROFS_XATTR_TRUSTED, False),
    (b"security.", EROFS_XATTR_SECURITY, False),
)
_HEADER = Record("erofs_xattr_ibody_header")
_ENTRY = Record("erofs_xattr_entry")


def split_name(name: bytes) -> tuple[int, bytes] | None:
    """Return (prefix index, suffix), or None when RAFS has no prefix for `name`."""
    for prefix, index, is_whole in _PREFIXES:
        if name == prefix if is_whole else name.startswith(prefix):
            return index, name[len(prefix) :]
    return None


class LeftOut:
    """Decides which attributes of the source go into the image, and remembers the names of the others."""

    def __init__(self) -> None:
        self._names: dict[bytes, tuple[int, bytes]] = {}

    def admits(self, name: bytes, value: bytes, path: bytes) -> bool:
        """Whether RAFS can store the attribute; raises BuildError for a value that is too long."""
        if split_name(name) is None:
            count, first = self._names.get(name, (0, path))
            self._names[name] = (count + 1, first)
            return False
        if len(value) > MAX_VALUE:
            raise BuildError(
                f"{os.fsdecode(path)!r}: attribute {os.fsdecode(name)!r} has {len(value)} bytes, "
                f"RAFS stores {MAX_VALUE} at most; shorten or remove it"
            )
        return True

    def warnings(self) -> list[str]:
        return [
            f"attribute {os.fsdecode(name)!r} cannot be stored in RAFS and was left out of {count} file(s), "
            f"the first is {os.fsdecode(first)!r}"
            for name, (count, first) in sorted(self._names.items())
        ]


def check_xattrs(xattrs: Mapping[bytes, bytes], path: bytes) -> None:
    """Raise BuildError for a name or a value that RAFS cannot hold. `path` is for the message."""
    for name, value in xattrs.items():
        if split_name(name) is None or len(name) > MAX_NAME or len(value) > MAX_VALUE:
            raise BuildError(
                f"{os.fsdecode(path)!r}: attribute {os.fsdecode(name)!r} does not fit RAFS; remove it"
            )


def pack_xattrs(xattrs: Mapping[bytes, bytes], path: bytes) -> bytes:
    """Return the area that follows the inode, b"" when there are no attributes.

    `path` is for messages. Raises BuildError when a name, a value or the whole area is too large.
    """
    if not xattrs:
        return b""
    check_xattrs(xattrs, path)
    area = bytearray(_HEADER.pack())
    for name, value in sorted(xattrs.items()):
        split = split_name(name)
        assert split is not None  # it was checked
        index, suffix = split
        area += _ENTRY.pack(name_len=len(suffix), name_index=index, value_size=len(value))
        area += suffix
        area += value
        area += bytes(-len(area) % 4)
    if icount(area) > MAX_ICOUNT:
        raise BuildError(
            f"{os.fsdecode(path)!r}: its attributes take {len(area)} bytes, more than an inode can hold"
        )
    return bytes(area)


def icount(area: bytes | bytearray) -> int:
    """Return the inode's xattr_icount for a packed area."""
    return (len(area) - _HEADER.size) // 4 + 1 if area else 0
