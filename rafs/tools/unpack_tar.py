"""An image as a tar archive: PAX, with everything that tar can say, in the order of the tree.

Sockets have no form in tar and are left out, with a warning. Times have nanoseconds, attributes go as
`SCHILY.xattr.` records, names and values as bytes. The same image gives the same bytes.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO

from native.dataplane import Inode
from rafs.codes import Buffer
from rafs.filesystem import Filesystem
from rafs.image import Extent, WholeImage
from rafs.tools.unpack import UnpackResult

_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
_ENCODING, _ERRORS = "utf-8", "surrogateescape"


def unpack_tar(
    filesystem: Filesystem, to: IO[bytes], *, progress: Callable[[int], None] = lambda size: None
) -> UnpackResult:
    """Write the archive to `to`, which need not seek. Raises OSError, RafsError."""
    result = UnpackResult()
    first_paths: dict[int, bytes] = {}
    whole = WholeImage(filesystem.image)
    archive = tarfile.TarFile(  # closed only if all went well
        fileobj=_Sink(to), mode="w", format=tarfile.PAX_FORMAT, encoding=_ENCODING, errors=_ERRORS
    )
    for path, inode in filesystem.walk():
        result.names += 1
        name = path.lstrip(b"/") or b"."
        if stat.S_ISSOCK(inode.mode):
            result.warnings.append(f"tar has no sockets: {os.fsdecode(path)!r} is left out")
            continue
        member = _member(filesystem, name, inode)
        if inode.nid in first_paths:
            member.type, member.linkname, member.size = tarfile.LNKTYPE, _text(first_paths[inode.nid]), 0
            archive.addfile(member)
            continue
        if inode.nlink > 1 and not stat.S_ISDIR(inode.mode):
            first_paths[inode.nid] = name
        if stat.S_ISREG(inode.mode):
            result.data_size += inode.size
            archive.addfile(member, _Pieces(filesystem.pieces(whole.extents(inode)), progress))
        else:
            archive.addfile(member)
    archive.close()
    return result


def _member(filesystem: Filesystem, name: bytes, inode: Inode) -> tarfile.TarInfo:
    member = tarfile.TarInfo(_text(name))
    records: dict[str, str] = {}
    member.pax_headers = records
    member.type = _TYPES[stat.S_IFMT(inode.mode)]
    member.mode = stat.S_IMODE(inode.mode)
    member.uid, member.gid = inode.uid, inode.gid
    seconds = inode.mtime - (1 << 64) if inode.mtime >> 63 else inode.mtime
    member.mtime = max(seconds, 0)
    if inode.mtime_nsec or seconds < 0:
        nanoseconds = seconds * 10**9 + inode.mtime_nsec
        sign, nanoseconds = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
        records["mtime"] = f"{sign}{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
    if stat.S_ISREG(inode.mode):
        member.size = inode.size
    elif stat.S_ISLNK(inode.mode):
        member.linkname = _text(filesystem.image.readlink(inode.nid))
    elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        member.devmajor = inode.rdev >> 8 & 0xFFF
        member.devminor = inode.rdev & 0xFF | inode.rdev >> 12 & 0xFFF00
    for key, value in sorted(filesystem.image.xattrs(inode.nid).items()):
        records[f"SCHILY.xattr.{_text(key)}"] = _text(value)
    return member


def _text(raw: bytes) -> str:
    return raw.decode(_ENCODING, _ERRORS)


class _Sink(io.RawIOBase):
    """A file that tarfile writes front to back, though it cannot say where it is."""

    def __init__(self, to: IO[bytes]) -> None:
        super().__init__()
        self._to = to
        self._at = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._to.write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at


class _Pieces(io.RawIOBase):
    """File data as tarfile reads it: as much as it asks for."""

    def __init__(
        self, pieces: Iterator[tuple[Extent, Buffer | None]], progress: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._zeros = 0  # that come before the next piece
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        taken: list[memoryview | bytes] = []
        while size > 0:
            if not self._rest and not self._zeros:
                extent, piece = next(self._pieces, (None, None))
                if extent is None:
                    break
                self._rest = memoryview(piece or b"")
                self._zeros = extent.length if piece is None else 0
                self._progress(extent.length)
            some = self._rest[:size] if self._rest else bytes(min(size, self._zeros))
            if self._rest:
                self._rest = self._rest[len(some) :]
            else:
                self._zeros -= len(some)
            taken.append(some)
            size -= len(some)
        return b"".join(taken)
