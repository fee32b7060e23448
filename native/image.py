"""The reader of RAFS bootstraps, v6 and v5: native/c/rafs_image.h."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from native._dataplane import ffi, lib
from native.handle import Handle, check
from native.records import Record

BLOB_RECORD = Record("rafs_v6_blob")
CHUNK_RECORD = Record("rafs_chunk_record")


class ImageError(Exception):
    """A bootstrap that cannot be read: malformed, or of a kind that we do not know."""


class Inode(NamedTuple):
    """Attributes as stored; `size` in bytes, `mtime` in seconds, `rdev` in Linux's 32-bit coding."""

    nid: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_nsec: int
    nlink: int
    rdev: int


class Dirent(NamedTuple):
    name: bytes
    nid: int
    file_type: int


class Extent(NamedTuple):
    """`length` bytes of a file from `file_offset`. A chunk has `blob_index` >= 0; else `inline` has
    the bytes, or is None for a hole."""

    file_offset: int
    length: int
    blob_index: int
    chunk_index: int
    offset_in_chunk: int
    blob_offset: int
    inline: bytes | None


class Image(Handle):
    """A RAFS bootstrap, read by the C reader (native/c/rafs_image.h).

    Raises ImageError when `path` is no such thing; methods raise OSError: EUCLEAN where the image
    lies, EOPNOTSUPP where it has something unknown, ENOTDIR, ENOENT. `version` is 6 or 5; no inode has a
    nid over `last_nid`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        out = ffi.new("struct vfs_image **")
        why = ffi.new("char[256]")
        with Path(path).open("rb") as file:
            if lib.vfs_image_open(file.fileno(), out, why, 256) < 0:
                raise ImageError(f"{path}: {ffi.string(why).decode(errors='replace')}")
        super().__init__(out[0])
        facts = ffi.new("struct vfs_image_facts *")
        lib.vfs_image_facts(self.c, facts)
        self.version: int = facts.version
        self.size: int = facts.size
        self.last_nid: int = facts.last_nid
        self.root_nid: int = facts.root_nid
        self.inode_count: int = facts.inos
        self.flags: int = facts.flags
        self.chunk_size: int = facts.chunk_size
        self.blob_count: int = facts.blob_count
        self.chunk_record_count: int = facts.chunk_table_count
        self._prefetch_count: int = facts.prefetch_count

    def blob_record(self, index: int) -> Any:
        """Entry `index` of the blob table, a parsed `struct rafs_v6_blob`; that of v5 in the same form."""
        pointer = lib.vfs_image_blob_record(self.c, index)
        if pointer == ffi.NULL:
            raise IndexError(index)
        return BLOB_RECORD.parse(bytes(ffi.buffer(pointer, BLOB_RECORD.size)))

    def chunk_record(self, index: int) -> Any:
        """Entry `index` of the chunk table, a parsed `struct rafs_chunk_record`. v5 has no such table."""
        pointer = lib.vfs_image_chunk_record(self.c, index)
        if pointer == ffi.NULL:
            raise IndexError(index)
        return CHUNK_RECORD.parse(bytes(ffi.buffer(pointer, CHUNK_RECORD.size)))

    def chunk_list(self, blob_index: int) -> bytes:
        """v5: the records of a blob's chunks that files have, by index, as `native.chunk_table` takes them.

        Raises ImageError where files contradict each other.
        """
        records, count, why = (
            ffi.new("struct rafs_chunk_record **"),
            ffi.new("uint32_t *"),
            ffi.new("char[256]"),
        )
        result = lib.vfs_image_chunks(self.c, blob_index, records, count, why, 256)
        if result == -errno.ENOMEM:
            raise MemoryError
        if result:
            raise ImageError(ffi.string(why).decode(errors="replace"))
        found = ffi.gc(records[0], lib.vfs_image_chunks_free)
        return bytes(ffi.buffer(found, count[0] * CHUNK_RECORD.size))

    def prefetch_nids(self) -> list[int]:
        """Nids of the prefetch table, in order, up to the first 0."""
        pointer = lib.vfs_image_prefetch_table(self.c)
        table = memoryview(bytes(ffi.buffer(pointer, 4 * self._prefetch_count))).cast("I").tolist()
        return table[: table.index(0)] if 0 in table else table

    def inode(self, nid: int) -> Inode:
        out = ffi.new("struct vfs_inode *")
        check(lib.vfs_image_inode(self.c, nid, out), f"nid {nid}")
        return Inode(
            nid, out.mode, out.uid, out.gid, out.size, out.mtime, out.mtime_nsec, out.nlink, out.rdev
        )

    def inode_offset(self, nid: int) -> int:
        """Where in the file the record of an inode stands."""
        return check(lib.vfs_image_offset(self.c, nid), f"nid {nid}")

    def inode_digest(self, nid: int) -> bytes | None:
        """The digest that v5 keeps with an inode (format specification, 4.7); None in v6."""
        pointer = lib.vfs_image_digest(self.c, nid)
        return None if pointer == ffi.NULL else bytes(ffi.buffer(pointer, 32))

    def lookup(self, nid: int, name: bytes) -> int:
        """Nid of `name` in directory `nid`. Raises FileNotFoundError."""
        out = ffi.new("uint64_t *")
        check(lib.vfs_image_lookup(self.c, nid, name, len(name), out), f"nid {nid}: {name!r}")
        return int(out[0])

    def readdir(self, nid: int) -> Iterator[Dirent]:
        """Entries of directory `nid` in stored order, "." and ".." included."""
        entry, cookie = ffi.new("struct vfs_dirent *"), 0
        while check(lib.vfs_image_dirent(self.c, nid, cookie, entry), f"directory nid {nid}"):
            yield Dirent(bytes(ffi.buffer(entry.name, entry.name_length)), entry.nid, entry.file_type)
            cookie = entry.next

    def xattrs(self, nid: int) -> dict[bytes, bytes]:
        xattr, offset, found = ffi.new("struct vfs_xattr *"), 0, {}
        while check(lib.vfs_image_xattr(self.c, nid, offset, xattr), f"attributes of nid {nid}"):
            name = ffi.string(xattr.prefix) + bytes(ffi.buffer(xattr.suffix, xattr.suffix_length))
            found[name] = bytes(ffi.buffer(xattr.value, xattr.value_size))
            offset = xattr.next
        return found

    def extents(self, nid: int, offset: int, length: int) -> Iterator[Extent]:
        """The pieces of `[offset, offset + length)` of a file or link, which must lie inside it."""
        out, end = ffi.new("struct vfs_extent *"), offset + length
        while offset < end:
            check(lib.vfs_image_map(self.c, nid, offset, end - offset, out), f"nid {nid} at {offset}")
            is_chunk = out.kind == lib.VFS_EXTENT_CHUNK
            inline = (
                bytes(ffi.buffer(out.inline_data, out.length)) if out.kind == lib.VFS_EXTENT_INLINE else None
            )
            yield Extent(
                offset,
                out.length,
                out.blob_index if is_chunk else -1,
                out.chunk_index,
                out.offset_in_chunk,
                out.blob_offset,
                inline,
            )
            offset += out.length

    def readlink(self, nid: int) -> bytes:
        """Target of symlink `nid`."""
        return b"".join(extent.inline or b"" for extent in self.extents(nid, 0, self.inode(nid).size))

    def close(self) -> None:
        if not self.closed:
            lib.vfs_image_close(self._take())
