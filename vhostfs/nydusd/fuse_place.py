"""Where a FUSE daemon is mounted, made ready before the sandbox is entered: mount(2) is not allowed inside.

A daemon that starts after a crash finds its mount still there, kept by the supervisor, and its API socket
with nobody behind it: it mounts nothing and waits to be told to take over (contract 4.6). The mountpoint is
looked up in the mount table only: whoever touches it waits for an answer that nobody gives.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple

from vhostfs.fuse_mount import (
    MS_NOATIME,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    FuseMountError,
    MountOptions,
    clones,
    mounted_at,
    open_session,
    umount,
)
from vhostfs.nydusd.arguments import Arguments
from vhostfs.unmounter import Unmounter

__all__ = ["FuseMountError", "FusePlace", "is_orphaned", "prepare"]


class FusePlace(NamedTuple):
    """`fds` of the session that is mounted; none: a predecessor's is to be taken over."""

    mountpoint: Path
    fds: list[int]
    unmounter: Unmounter


def prepare(arguments: Arguments) -> FusePlace:
    """Mount, unless there is something to take over. Raises FuseMountError, OSError."""
    mountpoint = Path.cwd() / arguments.mountpoint  # not resolved: see above
    has_supervisor = arguments.supervisor is not None
    fds: list[int] = []
    if not arguments.upgrade and not is_orphaned(mountpoint, arguments.apisock):
        flags = MS_NOSUID | MS_NODEV | MS_NOATIME | (0 if arguments.writable else MS_RDONLY)
        fd = open_session(mountpoint, MountOptions(flags=flags, allow_other=True, source="rafs"))
        # what is to survive us is one descriptor: see clones
        fds = [fd] if has_supervisor else clones(fd, arguments.fuse_threads)
    try:
        unmounter = Unmounter(mountpoint, is_kept=has_supervisor or arguments.upgrade)
    except OSError:
        if fds:
            umount(mountpoint, lazy=True)
        raise
    return FusePlace(mountpoint, fds, unmounter)


def is_orphaned(mountpoint: Path, apisock: str | None) -> bool:
    """Whether a predecessor died and left its mount and its API socket."""
    if apisock is None or mounted_at(mountpoint) is None or not Path(apisock).is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(apisock)
        except OSError:
            return True
    return False
