"""A tar archive as the source of an image, read once from front to back and never unpacked to disk.

Entries become a tree as container runtimes would unpack them (`growth`): names are taken relative to the
root, a later entry replaces an earlier one of its name, missing parents are made. What would lead out of the
root, a hard link to nothing, or an entry of unknown type is an error that names the entry.

Formats: v7, ustar, GNU and pax, with long names, sparse files, times in nanoseconds, and attributes as
`SCHILY.xattr.` or `LIBARCHIVE.xattr.` records.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import tarfile
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from rafs.build.chunker import UNIT_FILES, UNIT_SIZE, Piece
from rafs.build.errors import BuildError
from rafs.build.growth import IMPLIED_XATTR, GrowingTree, new_inode
from rafs.build.tar_stream import TarStream, decompressed, translated
from rafs.build.tree import Inode, Tree
from rafs.build.xattrs import LeftOut

#: indexes of chunks that an image may have; readers take a bootstrap of 1 GiB, 8 bytes are one index
MAX_CHUNK_INDEXES = 1 << 26
_MAX_SYMLINK = 4095
_SCHILY = "SCHILY.xattr."
_LIBARCHIVE = "LIBARCHIVE.xattr."
_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
#: at the root of an eStargz layer; they describe the archive
_ESTARGZ_NAMES = {b"stargz.index.json", b".prefetch.landmark", b".no.prefetch.landmark"}


class TarSource:
    """`units` has to be used up before `tree` is asked for. `name` is for messages."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        *,
        compression: str | None = None,
        on_entry: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._file = file
        self._name = name
        self._compression = compression
        self._on_entry = on_entry
        self._grown = GrowingTree()
        self._left_out = LeftOut()
        self._chunk_count = 0
        #: nobody knows how much there is before the end
        self.data_size: int | None = None

    def units(self, chunk_size: int) -> Iterator[list[Piece]]:
        """Yield the data of the files in archive order, in pieces of whole chunks. Raises BuildError."""
        with translated(self._name):
            stream = TarStream(decompressed(self._file, self._compression))
            yield from _in_units(self._pieces(stream, chunk_size), max(chunk_size, UNIT_SIZE))
            stream.finish()

    def tree(self) -> Tree:
        return self._grown.arrange(self._left_out.warnings())

    def _pieces(self, stream: TarStream, chunk_size: int) -> Iterator[Piece]:
        # surrogateescape: names and attributes are bytes, and come out as they were
        archive = tarfile.TarFile(
            fileobj=stream,  # type: ignore[arg-type]
            mode="r",
            encoding="utf-8",
            errors="surrogateescape",
        )
        count = 0
        while (info := archive.next()) is not None:
            stream.begin_entry()
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            count += 1
            self._on_entry(count)
            try:
                inode = self._enter(info)
            except BuildError as error:
                raise BuildError(f"entry {info.name!r}: {error}") from None
            if inode is not None and inode.is_regular and inode.size:
                self._count_chunks(inode, chunk_size)
                stream.seek(info.offset_data)
                if info.sparse is None:
                    yield from _plain_pieces(inode, stream, max(chunk_size, UNIT_SIZE))
                else:
                    yield from _sparse_pieces(inode, stream, _stored(info), chunk_size)

    def _count_chunks(self, inode: Inode, chunk_size: int) -> None:
        self._chunk_count += -(-inode.size // chunk_size)
        if self._chunk_count > MAX_CHUNK_INDEXES:
            raise BuildError(
                f"with entry {os.fsdecode(inode.path)!r} the files have more than {MAX_CHUNK_INDEXES} "
                "chunks; use a larger --chunk-size"
            )

    def _enter(self, info: tarfile.TarInfo) -> Inode | None:
        """Put one entry into the tree; None for a second name of a file, and for what is left out."""
        path = _split(info.name)
        if len(path) == 1 and path[0] in _ESTARGZ_NAMES:
            return None
        if info.islnk():
            self._link(path, _split(info.linkname), info.linkname)
            return None
        inode = self._inode(info, b"/".join(path))
        if not path:
            if not inode.is_dir:
                raise BuildError("the root of an image is a directory")
            self._grown.replace_root(inode)
            return inode
        self._grown.put(self._grown.directory(path[:-1]), path[-1], inode)
        return inode

    def _link(self, path: list[bytes], target: list[bytes], shown: str) -> None:
        inode = self._grown.find(target)
        if inode is None:
            raise BuildError(f"a hard link to {shown!r}, which the archive does not have before it")
        if inode.is_dir or not path:
            raise BuildError(f"a hard link to {shown!r}, which is a directory")
        self._grown.put(self._grown.directory(path[:-1]), path[-1], inode)

    def _inode(self, info: tarfile.TarInfo, path: bytes) -> Inode:
        if info.isreg():
            kind = stat.S_IFREG
        elif (known := _TYPES.get(info.type)) is not None:
            kind = known
        else:
            raise BuildError(f"type {info.type!r} is not one that can be unpacked")
        for what, number in (("owner", info.uid), ("group", info.gid)):
            if not 0 <= number < 0xFFFFFFFF:
                raise BuildError(f"{what} {number} is not a user or group id")
        inode = new_inode(path, kind | info.mode & 0o7777, info.uid, info.gid, _mtime_ns(info))
        if kind == stat.S_IFREG:
            inode.size = info.size
            if info.size < 0:
                raise BuildError(f"a size of {info.size} bytes")
        elif kind == stat.S_IFLNK:
            inode.target = _encode(info.linkname)
            inode.mode = stat.S_IFLNK | 0o777
            inode.size = len(inode.target)
            if not 0 < inode.size <= _MAX_SYMLINK or b"\0" in inode.target:
                raise BuildError(f"a symlink to a name of {inode.size} bytes")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            if not (0 <= info.devmajor < 1 << 12 and 0 <= info.devminor < 1 << 20):
                raise BuildError(f"device number {info.devmajor}:{info.devminor} is not one that Linux has")
            inode.rdev = os.makedev(info.devmajor, info.devminor)
        for name, value in _xattrs(info).items():
            if name != IMPLIED_XATTR and self._left_out.admits(name, value, path):
                inode.xattrs[name] = value
        return inode


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _split(name: str) -> list[bytes]:
    """The names in a path, relative to the root. Raises BuildError for one that leads out of it."""
    path: list[bytes] = []
    for part in _encode(name).split(b"/"):
        if part == b"..":
            if not path:
                raise BuildError("its name leads out of the image")
            path.pop()
        elif part not in (b"", b"."):
            if len(part) > 255 or b"\0" in part:
                raise BuildError(f"{os.fsdecode(part[:300])!r} is no name that Linux has: {len(part)} bytes")
            path.append(part)
    return path


def _mtime_ns(info: tarfile.TarInfo) -> int:
    """Nanoseconds; tarfile's own number is a float, which has no room for them."""
    text = info.pax_headers.get("mtime")
    if text is None:
        time_ns = int(info.mtime) * 10**9
    else:
        whole, _, fraction = text.partition(".")
        if not (whole.lstrip("-").isdecimal() and (fraction or "0").isdecimal()):
            raise BuildError(f"time {text!r} is not a number")
        less = int((fraction + "0" * 9)[:9])
        time_ns = int(whole) * 10**9 + (-less if whole.startswith("-") else less)
    if not -(1 << 63) <= time_ns // 10**9 < 1 << 63:
        raise BuildError(f"time {text or info.mtime} does not fit 64 bits")
    return time_ns


def _xattrs(info: tarfile.TarInfo) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key, text in info.pax_headers.items():
        if key.startswith(_LIBARCHIVE):
            name = urllib.parse.unquote_to_bytes(key[len(_LIBARCHIVE) :])
            try:
                value = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            except (binascii.Error, ValueError):
                raise BuildError(f"attribute {key!r} is not base64") from None
            found.setdefault(name, value)
    for key, text in info.pax_headers.items():
        if key.startswith(_SCHILY):  # the bytes as they are, so it goes first
            found[_encode(key[len(_SCHILY) :])] = _encode(text)
    return found


def _stored(info: tarfile.TarInfo) -> list[tuple[int, int]]:
    stored: Any = info.sparse  # typeshed has another type for it
    return list(stored)


def _plain_pieces(inode: Inode, stream: TarStream, step: int) -> Iterator[Piece]:
    for offset in range(0, inode.size, step):
        end = min(offset + step, inode.size)
        yield Piece(inode, offset, end, stream.read_data(end - offset))


def _sparse_pieces(
    inode: Inode, stream: TarStream, stored: list[tuple[int, int]], chunk_size: int
) -> Iterator[Piece]:
    """The same for a file of which the archive has the (offset, size) of `stored` only, in a row."""
    islands = [(start, start + size) for start, size in stored if size]
    borders = [0, *(border for island in islands for border in island), inode.size]
    if borders != sorted(borders):
        raise ValueError(f"the map of sparse file {os.fsdecode(inode.path)!r} is out of order")
    number = 0
    for offset in range(0, inode.size, chunk_size):
        end = min(offset + chunk_size, inode.size)
        if number == len(islands) or islands[number][0] >= end:
            yield Piece(inode, offset, end, is_hole=True)
            continue
        data = bytearray(end - offset)
        while number < len(islands) and islands[number][0] < end:
            start, stop = max(islands[number][0], offset), min(islands[number][1], end)
            data[start - offset : stop - offset] = stream.read_data(stop - start)
            if islands[number][1] > end:
                break
            number += 1
        yield Piece(inode, offset, end, bytes(data))


def _in_units(pieces: Iterator[Piece], size: int) -> Iterator[list[Piece]]:
    """Gather pieces into units of work."""
    unit: list[Piece] = []
    unit_size = 0
    for piece in pieces:
        unit.append(piece)
        unit_size += 0 if piece.is_hole else piece.end - piece.offset
        if unit_size >= size or len(unit) >= UNIT_FILES:
            yield unit
            unit, unit_size = [], 0
    if unit:
        yield unit
