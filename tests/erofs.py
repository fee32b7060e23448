"""Independent readers of an EROFS image: erofs-utils, and the running kernel. Needs root."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY = 1


#: what backs the blobs of an image: nothing, one file, or one for each in the order of the blob table
Devices = Path | Sequence[Path] | None


def fsck(bootstrap: Path, device: Devices) -> None:
    """Check all metadata; AssertionError with the words of fsck.erofs if something is wrong."""
    _run("fsck.erofs", *_device_option(device), str(bootstrap))


def extract(bootstrap: Path, device: Devices, target: Path) -> None:
    """Unpack into the new directory `target`, owners and modes kept."""
    _run("fsck.erofs", f"--extract={target}", "--preserve", *_device_option(device), str(bootstrap))


def dump(bootstrap: Path, device: Devices, *options: str) -> str:
    """Return what dump.erofs says with `options`."""
    return _run("dump.erofs", *_device_option(device), *options, str(bootstrap))


def _paths(devices: Devices) -> Sequence[Path]:
    if devices is None:
        return []
    return [devices] if isinstance(devices, Path) else devices


def _device_option(devices: Devices) -> list[str]:
    return [f"--device={path}" for path in _paths(devices)]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    # fsck.erofs reports some errors in words only
    assert done.returncode == 0 and "<E>" not in said, said
    return done.stdout


@contextmanager
def mounted(bootstrap: Path, device: Devices, *, use_loop: bool = False) -> Iterator[Path]:
    """Mount the image with the kernel's EROFS, its blobs backed by `device`; yield the mount point.

    Since Linux 6.12 the kernel takes the files as they are; before that, or with `use_loop`, they go through
    loop devices, made and removed here by name.
    """
    with ExitStack() as stack:
        point = stack.enter_context(tempfile.TemporaryDirectory(prefix="vhostfs-mount-"))
        try:
            if use_loop:
                raise OSError(errno.ENOTBLK, "as asked")
            _mount(bootstrap, _paths(device), point)
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
            loops = [stack.enter_context(_loop_device(path)) for path in (bootstrap, *_paths(device))]
            _mount(loops[0], loops[1:], point)
        stack.callback(_unmount, point)
        yield Path(point)


def _mount(source: Path, devices: Sequence[Path], point: str) -> None:
    options = b",".join(b"device=" + os.fsencode(device) for device in devices)
    if _libc.mount(os.fsencode(source), os.fsencode(point), b"erofs", _MS_RDONLY, options):
        number = ctypes.get_errno()
        raise OSError(number, f"mount of {source}: {os.strerror(number)}")


def _unmount(point: str) -> None:
    if _libc.umount2(os.fsencode(point), 0):
        raise OSError(ctypes.get_errno(), f"unmount of {point}")


@contextmanager
def _loop_device(path: Path) -> Iterator[Path]:
    name = _run("losetup", "--find", "--show", "--read-only", str(path)).strip()
    try:
        yield Path(name)
    finally:
        _run("losetup", "--detach", name)
