"""Programs of Debian's in a guest: they run from an image, on a shared directory, side by side as in Kata."""

from __future__ import annotations

from pathlib import Path

from tests.guest.backend import Image
from tests.guest.nydusd import run_on_share
from tests.guest.vm import Guest, Result

SCRIPT = """
set -e
mount -t proc proc $IMAGE/proc
mount --bind /sys $IMAGE/sys
mount --bind /dev $IMAGE/dev
mount -t tmpfs tmp $IMAGE/tmp
mount --bind $SHARE $IMAGE/srv
chroot $IMAGE /bin/bash -s </in-tools
"""


def run_in_tools(
    guest: Guest, image: Image, share: Path, script: str, work: Path, *, timeout_s: float
) -> Result:
    """Run `script` (bash) with `image`, of debian.tools_root, as root directory and `share` at /srv."""
    files = {"/in-tools": f"set -e\ncd /srv\n{script}".encode()}
    return run_on_share(guest, share, SCRIPT, work, image=image, files=files, timeout_s=timeout_s)
