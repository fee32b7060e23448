"""vhostfs-nydusd with options for the directories it shares that its API does not have.

python -m tests.guest.with_options writeback,locks virtiofs --apisock ...
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

from native.dataplane import Device, DirectoryOptions
from vhostfs.nydusd.cli import main


class DeviceWithOptions(Device):
    """One that sets them for every directory."""

    chosen: dict[str, Any]

    def mount_directory(
        self,
        path: str,
        source: str | os.PathLike[str] | int,
        *,
        options: DirectoryOptions | None = None,
        **others: Any,
    ) -> None:
        changed = dataclasses.replace(options or DirectoryOptions(), **self.chosen)
        super().mount_directory(path, source, options=changed, **others)


if __name__ == "__main__":
    import native.dataplane

    DeviceWithOptions.chosen = dict.fromkeys(sys.argv[1].split(","), True)
    native.dataplane.Device = DeviceWithOptions  # type: ignore[misc]
    sys.exit(main(sys.argv[2:]))
