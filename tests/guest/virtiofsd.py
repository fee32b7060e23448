"""QEMU's C virtiofsd behind a guest: the peer that a difference of ours is looked at beside."""

from __future__ import annotations

from pathlib import Path

from tests.guest.backend import Backend

VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
OPTIONS = "cache=auto,xattr,posix_acl,modcaps=+sys_admin"


class Virtiofsd(Backend):
    """It serves `folder` as the root of the device."""

    def __init__(self, folder: Path, work: Path, options: str = OPTIONS) -> None:
        sock = work / "virtiofsd.sock"
        command: list[str | Path] = [VIRTIOFSD, f"--socket-path={sock}", "-o", f"source={folder},{options}"]
        super().__init__(command, sock, work / "virtiofsd.log")
