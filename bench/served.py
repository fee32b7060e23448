"""Images whose blobs lie in a registry of this machine: `vhostfs registry serve` as a process."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.place import BenchError
from rafs.backend.http import HttpPool
from rafs.oci.descriptor import Descriptor
from rafs.registry.client import RegistryClient
from rafs.registry.push import Pusher
from tests.guest.backend import Image
from tests.guest.nydusd import Nydusd
from tests.vhostfs.test_daemon import Guest

REPOSITORY = "bench/image"
MOUNTPOINT = "/image"


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


@contextmanager
def cold(where: Path, image: Image, port: int) -> Iterator[ColdDaemon]:
    """A new daemon with an empty cache, and a front-end of it. `port` leads to the registry."""
    cache = Path(tempfile.mkdtemp(prefix="cache-", dir=where))  # an agent may stay with the one before
    try:
        with Nydusd(where, shared=[cache], readable=[where, image.bootstrap]) as daemon:
            guest = Guest(str(daemon.socket))
            try:
                yield ColdDaemon(daemon, guest, image, port, cache)
            finally:
                guest.close()
    finally:
        shutil.rmtree(cache, ignore_errors=True)


@dataclass
class ColdDaemon:
    """See `cold`."""

    daemon: Nydusd
    guest: Guest
    image: Image
    port: int
    cache: Path

    def mount(self, fs_prefetch: dict[str, Any] | None = None, **more: Any) -> int:
        """Mount the image; return its root's node id. `more`: fields of the request."""
        backend = {"scheme": "http", "host": f"127.0.0.1:{self.port}", "repo": REPOSITORY}
        config = {
            "device": {
                "backend": {"type": "registry", "config": backend},
                "cache": {"type": "blobcache", "config": {"work_dir": str(self.cache)}},
            },
            "mode": "direct",
            "fs_prefetch": fs_prefetch or {"enable": False},
        }
        source = str(self.image.bootstrap)
        body = {"fs_type": "rafs", "source": source, "config": json.dumps(config), **more}
        status, answer = self.daemon.call("POST", f"/api/v1/mount?mountpoint={MOUNTPOINT}", body)
        if status != 204:
            raise BenchError(f"cannot mount: {answer.decode()}")
        return self.guest.fuse.walk(MOUNTPOINT.encode()).nodeid

    def metrics(self, kind: str) -> dict[str, Any]:
        """What the API tells: "backend" or "blobcache"."""
        status, answer = self.daemon.call("GET", f"/api/v1/metrics/{kind}")
        if status != 200:
            raise BenchError(f"no metrics: {answer.decode()}")
        told: dict[str, Any] = json.loads(answer)
        return told
