"""A device with mounts, and a guest that looks at them; all in the process of the test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from native.dataplane import ChunkStore, Device
from tests.vhostfs.agent_here import AgentsHere
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.nydusd.daemon_process import snapshotter_config
from tests.vhostfs.test_daemon import Guest
from vhostfs.agent.server import Agent
from vhostfs.front_ends import serve_front_ends
from vhostfs.mounts import MountRequest, Mounts
from vhostfs.runtime import background
from virtqueue.fuse_abi import OPEN_IN, OPEN_OUT, Opcode
from virtqueue.listener import Listener


class Session:
    """A device with mounts, and a guest that looks at them."""

    def __init__(
        self, mounts: Mounts, guest: Guest, where: Path, image: BuiltImage, agents: AgentsHere
    ) -> None:
        self.mounts = mounts
        self._agents = agents
        self.guest = guest
        self._where = where
        self._image = image

    def request(
        self,
        *,
        blob_dir: Path | None = None,
        snapshot: str = "15",
        cache: str = "cache",
        prefetch: bool = False,
    ) -> MountRequest:
        blob_dir, cache_dir = blob_dir or self._image.blob_dir, self._where / cache
        config = snapshotter_config(blob_dir, cache_dir, snapshot, prefetch=prefetch)
        return MountRequest(fs_type="rafs", source=str(self._image.bootstrap), config=config)

    def shared(self, name: str = "") -> MountRequest:
        return MountRequest(fs_type="passthrough_fs", source=str(self._where / name))

    def agent(self, cache: str = "cache") -> Agent:
        """Who fetches for one of the cache directories."""
        return self._agents.agents[self._where / cache]

    async def read(self, path: str) -> bytes:
        return await asyncio.to_thread(self.guest.read, path.encode())

    async def names(self, path: str) -> set[str]:
        """What a guest sees in a directory."""

        def look() -> set[str]:
            nodeid = self.guest.fuse.walk(path.encode()).nodeid if path != "/" else 1
            body = OPEN_IN.pack(os.O_RDONLY, 0)
            opened = self.guest.fuse.call(Opcode.OPENDIR, nodeid, body, reply_size=OPEN_OUT.size)
            fh, _ = OPEN_OUT.unpack(opened)
            return {os.fsdecode(entry.name) for entry in self.guest.fuse.readdir(nodeid, fh=fh)} - {".", ".."}

        return await asyncio.to_thread(look)


@asynccontextmanager
async def session(where: Path, image: BuiltImage) -> AsyncIterator[Session]:
    chunks = ChunkStore()
    device = Device(chunks, shared=True)
    agents = AgentsHere()
    mounts = Mounts(device, chunks, agents.start)
    listener = Listener.bind(str(where / "vu"))
    try:
        async with background(serve_front_ends(listener, device)):
            guest = await asyncio.to_thread(Guest, str(where / "vu"))
            try:
                yield Session(mounts, guest, where, image, agents)
            finally:
                await asyncio.to_thread(guest.close)
                await mounts.stop()
    finally:
        listener.close()
        device.close()
        await mounts.close()
        await agents.close()
        chunks.close()


def resources() -> tuple[int, int]:
    """(descriptors, mappings of cache and image files)."""
    maps = Path("/proc/self/maps").read_text()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (no need for paths)
    return descriptors, maps.count(".blob.") + maps.count("/boot")
