"""VMMs on a listening socket, one after the other, until cancelled.

A module of its own because it is slow to import: a socket that listens keeps a VMM waiting meanwhile, so a
daemon that is in a hurry can be ready first.
"""

from __future__ import annotations

from native.dataplane import Device
from vhostfs.device import VirtioFsDevice
from virtqueue.listener import Listener
from virtqueue.offer import virtio_fs_offer
from virtqueue.server import Server


async def serve_front_ends(
    listener: Listener, device: Device, *, num_request_queues: int = 1, tag: str | None = None
) -> None:
    """Serve until cancelled; listener and device stay the caller's. Raises ValueError for a bad tag."""
    offer = virtio_fs_offer(num_request_queues, tag)
    binding = VirtioFsDevice(device)
    try:
        await Server(listener, offer, binding).serve()
    finally:
        binding.close()
