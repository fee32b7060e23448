"""``VirtioFsDevice``: what the front-end decides, done to the data plane (``native.dataplane.Device``).

One row in ``_actions`` for each event. Most calls may wait for a queue thread, so all run in a thread and the
event loop can go on completing the misses that the queue waits for. It is a thread of their own: the common
pool may be full of chunks being decompressed, for the very queue that is waited for.
A descriptor that the data plane keeps is taken from its message only after the call has returned.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from native import dataplane
from vhostfs.runtime import run_to_end
from virtqueue import events
from virtqueue.errors import RequestRefused
from virtqueue.fd import Fd
from virtqueue.features import VirtioFeature
from virtqueue.messages import RegionBody

# How long a stopping vring may wait for requests that miss; then they are answered EIO. The VMM's main loop
# stands still meanwhile. Whoever ends the daemon sooner fails the pending chunks, which ends the wait.
DRAIN_MS = 5000


class VirtioFsDevice:
    """The virtqueue.server.Device of one data plane device, which stays the caller's to close, after this."""

    def __init__(self, device: dataplane.Device, *, drain_ms: int = DRAIN_MS) -> None:
        self._device = device
        self._drain_ms = drain_ms
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vhost-user")
        self._actions: dict[type, Callable[[Any], int | None]] = {
            events.VirtioFeaturesSet: self._set_features,
            events.MemTableSet: self._set_mem_table,
            events.MemRegionAdded: self._add_mem_region,
            events.MemRegionRemoved: self._remove_mem_region,
            events.VringNumSet: self._set_vring_num,
            events.VringAddrSet: self._set_vring_addr,
            events.VringBaseSet: self._set_vring_base,
            events.VringKickSet: self._set_vring_kick,
            events.VringCallSet: self._set_vring_call,
            events.VringErrSet: self._set_vring_err,
            events.VringEnableSet: self._set_vring_enable,
            events.VringStopRequested: self._stop_vring,
            events.DeviceReset: self._reset_vrings,
        }

    async def apply(self, event: events.Event) -> int | None:
        """See virtqueue.server.Device."""
        action = self._actions[type(event)]
        try:
            return await run_to_end(self._thread, lambda: action(event))
        except (OSError, ValueError) as error:
            raise RequestRefused(str(error)) from error

    async def reset(self) -> None:
        """See virtqueue.server.Device."""
        await run_to_end(self._thread, self._device.reset)

    def close(self) -> None:
        """End the thread. No call may be under way."""
        self._thread.shutdown()

    def _set_features(self, event: events.VirtioFeaturesSet) -> None:
        self._device.set_features(
            indirect=bool(event.features & VirtioFeature.RING_INDIRECT_DESC),
            event_idx=bool(event.features & VirtioFeature.RING_EVENT_IDX),
        )
        if event.enables_vrings:
            for index in range(self._device.queue_count):
                self._device.set_vring_enable(index, True)

    def _set_mem_table(self, event: events.MemTableSet) -> None:
        regions = [_region(body, fd) for body, fd in zip(event.regions, event.fds, strict=True)]
        try:
            self._device.set_mem_table(regions)
        except BaseException:
            self._device.set_mem_table([])
            raise

    def _add_mem_region(self, event: events.MemRegionAdded) -> None:
        self._device.add_mem_region(_region(event.region, event.fd))

    def _remove_mem_region(self, event: events.MemRegionRemoved) -> None:
        region = event.region
        self._device.remove_mem_region(region.gpa, region.size, region.user_addr)

    def _set_vring_num(self, event: events.VringNumSet) -> None:
        self._device.stop_vring(event.index, 0)
        self._device.set_vring_num(event.index, event.num)

    def _set_vring_addr(self, event: events.VringAddrSet) -> None:
        # event.log: dirty logging is not offered, so there is nothing to log into.
        self._device.set_vring_addr(event.index, desc=event.desc, used=event.used, avail=event.avail)

    def _set_vring_base(self, event: events.VringBaseSet) -> None:
        self._device.stop_vring(event.index, 0)
        self._device.set_vring_base(event.index, event.base)

    def _set_vring_kick(self, event: events.VringKickSet) -> None:
        _give(self._device.set_vring_kick, event.index, event.fd)

    def _set_vring_call(self, event: events.VringCallSet) -> None:
        _give(self._device.set_vring_call, event.index, event.fd)

    def _set_vring_err(self, event: events.VringErrSet) -> None:
        _give(self._device.set_vring_err, event.index, event.fd)

    def _set_vring_enable(self, event: events.VringEnableSet) -> None:
        self._device.set_vring_enable(event.index, event.enabled)

    def _stop_vring(self, event: events.VringStopRequested) -> int:
        return self._device.stop_vring(event.index, self._drain_ms)

    def _reset_vrings(self, event: events.DeviceReset) -> None:
        # Not Device.reset(): guest memory stays shared, for the front-end will not send it again.
        for index in range(self._device.queue_count):
            self._device.stop_vring(index, 0)
            self._device.set_vring_call(index, None)
            self._device.set_vring_err(index, None)
            self._device.set_vring_enable(index, False)
            self._device.set_vring_base(index, 0)
        self._device.set_features(indirect=False, event_idx=False)


def _region(body: RegionBody, fd: Fd) -> dataplane.MemoryRegion:
    return dataplane.MemoryRegion(body.gpa, body.size, body.user_addr, body.mmap_offset, fd.fileno())


def _give(setter: Callable[[int, int | None], None], index: int, fd: Fd | None) -> None:
    setter(index, None if fd is None else fd.fileno())
    if fd is not None:
        fd.take()
