"""Mounts of the host that tests make, and take down again whatever happens."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE = 1, 32, 4096, 8192
MNT_DETACH = 2


def mount(source: str | Path, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    if LIBC.mount(bytes(Path(source)), bytes(target), kind.encode(), flags, data.encode()):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def umount(target: Path, flags: int = 0) -> None:
    """umount2(2); OSError EBUSY where something is open on it."""
    if LIBC.umount2(bytes(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    mount(source, target, flags=MS_BIND)
    if read_only:
        mount(source, target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def tmpfs(target: Path) -> None:
    mount("tmpfs", target, "tmpfs", data="size=16m")


@contextmanager
def clean_mounts(below: Path) -> Iterator[None]:
    """Nothing stays mounted below a directory after the block."""
    try:
        yield
    finally:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in lines]
        for point in reversed([p for p in points if p.startswith(f"{below}/")]):
            umount(Path(point), MNT_DETACH)


@contextmanager
def hanging(target: Path) -> Iterator[None]:
    """A file system that answers nothing, until the block ends: FUSE with nobody behind it."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        mount("hanging", target, "fuse", data=f"fd={fd},rootmode=40000,user_id=0,group_id=0")
        yield
    finally:
        os.close(fd)  # who waits gets an error
        umount(target, MNT_DETACH)
