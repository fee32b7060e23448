"""A ``Server`` in this process for tests that talk to it over its socket; its device only remembers."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from virtqueue import events
from virtqueue.errors import RequestRefused
from virtqueue.listener import Listener
from virtqueue.offer import Offer, virtio_fs_offer
from virtqueue.server import Device, Server

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


class RecordingDevice:
    """A Device that takes the descriptors it should take, and closes them when it is reset."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.kept: list[int] = []
        self.resets = 0
        self.was_reset = asyncio.Event()
        self.error: BaseException | None = None
        self.pause: asyncio.Event | None = None  # apply waits for it
        self.paused = threading.Event()

    async def apply(self, event: events.Event) -> int | None:
        if self.pause is not None:
            self.paused.set()
            await self.pause.wait()
        if self.error is not None:
            raise self.error
        self.events.append(event)
        match event:
            case events.VringKickSet(fd=fd) | events.VringCallSet(fd=fd) | events.VringErrSet(fd=fd):
                if fd is not None:
                    self.kept.append(fd.take())
            case events.VringStopRequested():
                return 77
        return None

    async def reset(self) -> None:
        while self.kept:
            os.close(self.kept.pop())
        self.resets += 1
        self.was_reset.set()

    def refuse(self) -> None:
        self.error = RequestRefused("the device refuses")


@contextlib.asynccontextmanager
async def serving(path: Path, device: Device, offer: Offer | None = None) -> AsyncIterator[Server]:
    """A server at ``path`` until the block ends."""
    listener = Listener.bind(str(path))
    server = Server(listener, offer or virtio_fs_offer(1), device)
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()


def run_with_server(
    run: Run[Any],
    path: Path,
    client: Callable[[], None],
    device_setup: Callable[[RecordingDevice], None] | None = None,
) -> RecordingDevice:
    """Run a blocking client against a server; returns the device, after the server has ended."""

    async def main() -> RecordingDevice:
        device = RecordingDevice()
        if device_setup is not None:
            device_setup(device)
        async with serving(path, device):
            await asyncio.to_thread(client)
        return device

    device: RecordingDevice = run(main())
    return device
