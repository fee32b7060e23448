"""A session on /dev/fuse: native/c/fusedev.c."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from native._dataplane import ffi, lib
from native.device import Device
from native.handle import Handle, check


class SessionTerms(NamedTuple):
    """What the kernel's INIT and our answer agreed on; a successor that takes the session over needs it."""

    minor: int
    flags: int


class InFlight(NamedTuple):
    """A request that waits. `since_s`: of the epoch."""

    unique: int
    nodeid: int
    since_s: int
    opcode: int


def session_terms(device: Device) -> SessionTerms | None:
    """The terms of the device's session; None when no INIT was answered."""
    out = ffi.new("struct vfs_session_terms *")
    if lib.vfs_device_session_terms(device.c, out) < 0:
        return None
    return SessionTerms(out.minor, out.flags)


def adopt_session(device: Device, terms: SessionTerms) -> None:
    """Go on with a session that a predecessor has begun: no INIT will come. Raises OSError (EPROTO)."""
    packed = ffi.new("struct vfs_session_terms *", {"minor": terms.minor, "flags": terms.flags})
    check(lib.vfs_device_adopt_session(device.c, packed), "the terms of the FUSE session")


class FuseSession(Handle):
    """Serves a device's mounts to the kernel of this host.

    `fds` are open /dev/fuse of one session that is, or will be, mounted: the first, and clones of it
    (`vhostfs.fuse_mount`). They are the session's own from now on. `channels` threads read from them in turn.
    With one descriptor for all, whoever else holds it keeps the requests that are under way when this process
    dies. Close it before the device.
    """

    def __init__(self, device: Device, fds: Sequence[int], *, channels: int = 4) -> None:
        out = ffi.new("struct vfs_session **")
        check(lib.vfs_session_new(device.c, list(fds), len(fds), channels, out), "FUSE session")
        super().__init__(out[0])
        self.fd = fds[0]

    def start(self) -> None:
        """Begin to answer. Raises OSError when threads cannot be started."""
        check(lib.vfs_session_start(self.c), "FUSE session")

    @property
    def ended_fd(self) -> int:
        """A descriptor of ours that is readable once the kernel has ended the session (umount, abort)."""
        return int(lib.vfs_session_ended_fd(self.c))

    def stop(self, drain_ms: int = 0, *, abandon: bool = False) -> None:
        """Read no more; wait up to `drain_ms` for what waits, in a thread, then fail it with EIO.

        `abandon`: leave it unanswered, for a successor that has the kernel ask again.
        """
        lib.vfs_session_stop(self.c, drain_ms, abandon)

    def resend(self) -> None:
        """Have the kernel ask again what a predecessor left unanswered. Raises OSError: before Linux 6.9."""
        check(lib.vfs_session_resend(self.c), "resend of the requests under way")

    def forget_entry(self, parent: int, name: str) -> bool:
        """Have the kernel forget `name` in the directory with node id `parent`; False: it knew none."""
        return bool(lib.vfs_session_forget_entry(self.c, parent, os.fsencode(name)) == 0)

    def in_flight(self, limit: int = 1024) -> list[InFlight]:
        """Requests that wait for a chunk or the disk, the latest first, at most `limit`."""
        out = ffi.new("struct vfs_in_flight[]", limit)
        count = lib.vfs_session_in_flight(self.c, out, limit)
        return [InFlight(one.unique, one.nodeid, one.since_s, one.opcode) for one in out[0:count]]

    def statistics(self) -> dict[str, int]:
        """Sums over all channels of `struct vfs_statistics`."""
        out = ffi.new("struct vfs_statistics *")
        lib.vfs_session_statistics(self.c, out)
        return {field: getattr(out, field) for field, _ in ffi.typeof("struct vfs_statistics").fields}

    def close(self) -> None:
        """Stop, and close the descriptors. The mount then answers ENOTCONN, unless another holds `fd`."""
        if not self.closed:
            lib.vfs_session_free(self._take())
