"""Tar archives made entry by entry, hostile ones too."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Member:
    """One entry; `size` may differ from the data's, `xattrs` become SCHILY records."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    linkname: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    pax: dict[str, str] = field(default_factory=dict)

    def info(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.name)
        info.size = len(self.data)
        info.type, info.linkname, info.mode = self.type, self.linkname, self.mode
        info.uid, info.gid = self.uid, self.gid
        info.devmajor, info.devminor = self.device
        seconds, nanoseconds = divmod(self.mtime_ns, 10**9)
        info.mtime = seconds
        info.pax_headers = dict(self.pax)
        if nanoseconds:
            sign, whole, part = ("", seconds, nanoseconds)
            if seconds < 0:
                sign, whole, part = "-", -seconds - 1, 10**9 - nanoseconds
            info.pax_headers["mtime"] = f"{sign}{whole}.{part:09}"
        for name, value in self.xattrs.items():
            info.pax_headers[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
        return info


def directory(name: str, mode: int = 0o755, **more: object) -> Member:
    return Member(name, type=tarfile.DIRTYPE, mode=mode, **more)  # type: ignore[arg-type]


def symlink(name: str, target: str) -> Member:
    return Member(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def hard_link(name: str, target: str) -> Member:
    return Member(name, type=tarfile.LNKTYPE, linkname=target)


def archive(members: Iterable[Member], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return the archive, with its end."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tar_format, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for member in members:
            tar.addfile(member.info(), io.BytesIO(member.data))
    return out.getvalue()
