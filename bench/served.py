"""An image's blobs in a registry of this machine: `vhostfs registry serve` as a process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.place import BenchError
from rafs.backend.http import HttpPool
from rafs.oci.descriptor import Descriptor
from rafs.registry.client import RegistryClient
from rafs.registry.push import Pusher

REPOSITORY = "bench/image"


@contextmanager
def pushed_registry(folder: Path, blob_dir: Path) -> Iterator[int]:
    """Serve the blobs of `blob_dir` out of `folder`, as REPOSITORY; give the port."""
    command = [sys.executable, "-m", "vhostfs", "registry", "serve", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said.startswith("listening on "):
                raise BenchError("vhostfs registry serve did not start")
            port = int(said.rpartition(":")[2])
            asyncio.run(_push(port, blob_dir))
            yield port
        finally:
            process.terminate()


async def _push(port: int, blob_dir: Path) -> None:
    pool = HttpPool()
    client = RegistryClient(pool, f"127.0.0.1:{port}", REPOSITORY, scheme="http")
    try:
        for path in blob_dir.iterdir():
            blob = Descriptor("application/octet-stream", f"sha256:{path.name}", path.stat().st_size)
            await Pusher(client).push_blob(blob, path)
    finally:
        client.close()
        await pool.close()
