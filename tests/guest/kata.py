"""What Kata lays out on the host for a sandbox and its containers, in both of its runtimes' ways.

The paths are Kata's own, below /run: the daemon's sandbox knows them. Go's runtime shares `shared`, a
read-only slave bind of `mounts`, and mounts a container's snapshot below `mounts` later; runtime-rs shares
`rw` itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

SANDBOXES = Path("/run/kata-containers/shared/sandboxes")
SOCKETS = Path("/run/vc/vm")


class Runtime(Enum):
    GO = "go"
    RS = "runtime-rs"


def run(*command: str | Path) -> None:
    """Run a command of the host. Raises RuntimeError with what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")


class Sandbox:
    """The directories of one sandbox. `source` is what is shared; containers come while it runs."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        self.runtime = runtime
        self.sockets = SOCKETS / name
        self.folder = SANDBOXES / name
        self.mounts = self.folder / ("mounts" if runtime is Runtime.GO else "rw")
        self.source = self.folder / ("shared" if runtime is Runtime.GO else "rw")

    def create(self) -> None:
        for path in (self.sockets, self.mounts, self.source):
            path.mkdir(parents=True, exist_ok=True)
        # as systemd leaves /run: what is mounted below is seen in other namespaces, the daemon's too
        run("mount", "--bind", self.folder, self.folder)
        run("mount", "--make-shared", self.folder)
        if self.runtime is Runtime.GO:
            run("mount", "--bind", self.mounts, self.source)
            run("mount", "--make-slave", self.source)
            run("mount", "-o", "remount,bind,ro", self.source)

    def remove(self) -> None:
        subprocess.run(["umount", "--recursive", "--lazy", self.folder], capture_output=True)
        for path in (self.folder, self.sockets):  # a bind that is still there would be emptied with it
            if not any(str(path) in line for line in Path("/proc/self/mounts").read_text().splitlines()):
                shutil.rmtree(path)

    def add_container(self, container: str, snapshot: Path) -> None:
        """Bind `snapshot` (with `fs` and `work` in it) where the guest will find it."""
        root, place = self.mounts / container / "rootfs", self.mounts / container / "snapshotdir"
        root.mkdir(parents=True)
        place.mkdir()
        run("mount", "--bind", snapshot, place)
        if self.runtime is Runtime.GO:
            run("mount", "-o", "remount,bind,ro", place)

    def remove_container(self, container: str) -> None:
        """As runtime-rs does it: a plain umount, that is refused while anybody holds something below."""
        place = self.mounts / container
        run("umount", place / "snapshotdir")
        for name in ("snapshotdir", "rootfs"):
            (place / name).rmdir()
        place.rmdir()


@contextmanager
def sandbox(runtime: Runtime) -> Iterator[Sandbox]:
    """A sandbox with a name of its own, gone after the block."""
    made = Sandbox(f"vhostfs-test-{os.getpid()}-{runtime.name.lower()}", runtime)
    try:
        made.create()
        yield made
    finally:
        made.remove()
