"""Who takes a mount off when its daemon ends: a shell outside of the sandbox, where umount(2) is not allowed.

It waits for the end of a pipe, so it also acts when the daemon is killed, unless the session is to outlive
the daemon (`is_kept`): then it does what it is told only. It takes off what was mounted when it was spawned
and nothing else, by the mount's number in the mount table: a successor's mount at the same path stays.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path

from vhostfs.fuse_mount import mounted_at

#: how long a mount that is taken off is waited for
DEADLINE_S = 0.5

_SCRIPT = """
while IFS= read -r order; do
  case $order in stay) exit ;; umount) is_kept= && break ;; esac
done
[ -z "$is_kept" ] || exit
while IFS=' ' read -r number _; do
  [ "$number" != "$id" ] || exec umount -l -i -c -- "$where"
done </proc/self/mountinfo
"""


class Unmounter:
    """Spawn it when the mount stands, before the sandbox is entered. Raises OSError."""

    def __init__(self, mountpoint: Path, *, is_kept: bool = False) -> None:
        mounted = mounted_at(mountpoint)
        if mounted is None:
            raise FileNotFoundError(f"{mountpoint} is not mounted")
        orders, self._orders = os.pipe2(os.O_CLOEXEC)
        self._ended, ended = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _SCRIPT, "vhostfs-unmounter"],
                {
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "id": str(mounted.id),
                    "where": str(mountpoint),
                    "is_kept": "yes" if is_kept else "",
                },
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, fd, to) for fd, to in ((orders, 0), (ended, 1), (null, 2))
                ],
                setsid=True,
            )
        finally:
            for fd in (orders, ended, null):
                os.close(fd)

    def umount(self) -> None:
        """Take it off, lazily, and wait for that a while. Nothing happens when it is off already."""
        self._tell(b"umount\n")
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        poll.poll(DEADLINE_S * 1000)

    def stay(self) -> None:
        """The mount outlives us."""
        self._tell(b"stay\n")

    def _tell(self, order: bytes) -> None:
        if self._orders >= 0:
            with suppress(BrokenPipeError):  # it has ended
                os.write(self._orders, order)
            os.close(self._orders)
            self._orders = -1

    def close(self) -> None:
        """Let it do what it does when we end."""
        for fd in (self._orders, self._ended):
            if fd >= 0:
                os.close(fd)
        self._orders = self._ended = -1
