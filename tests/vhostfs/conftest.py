"""A small image, and back-ends that a test can hold still or make fail."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rafs.backend import LocalBackend
from rafs.backend.config import LocalFs, backend_of
from rafs.errors import BlobUnavailable
from vhostfs.options import ServeOptions


@dataclass(frozen=True)
class BuiltImage:
    """A source tree and the image made of it."""

    source: Path
    bootstrap: Path
    blob_dir: Path

    def options(self, where: Path, **changes: object) -> ServeOptions:
        """Serve it on `where`/sock with a cache of its own there."""
        chosen: dict[str, object] = {
            "bootstrap": self.bootstrap,
            "backend": backend_of("localfs", LocalFs(dir=str(self.blob_dir))),
            "cache_dir": where / "cache",
            "socket": str(where / "sock"),
        }
        return ServeOptions(**(chosen | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """1 MiB + 5 bytes in `big` at 64 KiB chunks, and a few small files."""
    top = tmp_path_factory.mktemp("image")
    source = top / "source"
    (source / "dir").mkdir(parents=True)
    (source / "big").write_bytes(random.Random(1).randbytes((1 << 20) + 5))
    for number in range(20):
        (source / "dir" / f"file{number}").write_text(f"content {number}\n")
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "build", source, "--chunk-size", "64KiB"]
    command += ["--bootstrap", top / "boot", "--blob-dir", top / "blobs"]
    subprocess.run(command, check=True, capture_output=True)
    return BuiltImage(source, top / "boot", top / "blobs")


class GatedBackend(LocalBackend):
    """A directory whose reads of chunks wait for `gate`, and fail while `broken`. Counts them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gate = asyncio.Event()
        self.broken = False
        self.waiting = 0
        self.reads = 0

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        if offset >= 1 << 20:  # the blob's tail: its metadata
            return await super().read_range(blob_id, offset, length, again=again)
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        self.reads += 1
        if self.broken:
            raise BlobUnavailable(f"blob {blob_id}: broken on purpose")
        return await super().read_range(blob_id, offset, length, again=again)
