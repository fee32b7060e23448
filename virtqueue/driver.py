"""``Driver``: the driver half of one split virtqueue, in plain Python (VIRTIO 1.2, section 2.7).

Part of the driver-side mock: it builds direct and indirect chains, kicks as EVENT_IDX says, reads the used
ring and waits on the call eventfd. Each wait has a time-out, so a device that loses a notification fails a
test instead of hanging it; for the same reason nothing here kicks a second time "to be sure".
``malformed.py`` uses the raw methods (``write_desc``, ``offer``, ``publish``) to break the rules.
Single-threaded: one thread owns a driver.
"""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from virtqueue import layout
from virtqueue.features import VirtioFeature
from virtqueue.guest_memory import GuestMemory

DEFAULT_TIMEOUT = 5.0  # seconds


class Buffer(NamedTuple):
    """``length`` bytes of guest memory at ``gpa``."""

    gpa: int
    length: int


class Used(NamedTuple):
    """One element of the used ring: the chain's head, and how many bytes the device says it wrote."""

    head: int
    written: int


class _Chain(NamedTuple):
    descs: tuple[int, ...]
    indirect_gpa: int | None


_fence_lock = threading.Lock()


def _fence() -> None:
    # Publishing an index and then reading the other side's event index needs store-load order. Taking a lock
    # is an atomic read-modify-write, a full fence on x86-64; Python has no nearer word for it.
    with _fence_lock:
        pass


class Driver:
    """One virtqueue of ``size`` entries (a power of two) in ``memory``.

    ``virtio_features``: what was acknowledged; RING_EVENT_IDX and RING_INDIRECT_DESC matter here.
    ``base``: the free-running index where both rings begin. The three eventfds belong to the driver.
    """

    def __init__(
        self, memory: GuestMemory, size: int = 128, *, virtio_features: int = 0, base: int = 0
    ) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = bool(virtio_features & VirtioFeature.RING_EVENT_IDX)
        self.indirect = bool(virtio_features & VirtioFeature.RING_INDIRECT_DESC)
        self.desc_gpa = memory.allocate(layout.desc_table_size(size))
        self.avail_gpa = memory.allocate(layout.avail_size(size))
        self.used_gpa = memory.allocate(layout.used_size(size))
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        self.kick_fd = os.eventfd(0, flags)
        self.call_fd = os.eventfd(0, flags)
        self.err_fd = os.eventfd(0, flags)
        self.rewind(base)

    def rewind(self, base: int = 0) -> None:
        """Empty both rings and begin at index ``base``, as a driver does after a device reset."""
        memory, size = self.memory, self.size
        memory.write(self.desc_gpa, bytes(layout.desc_table_size(size)))
        memory.write(self.avail_gpa, bytes(layout.avail_size(size)))
        memory.write(self.used_gpa, bytes(layout.used_size(size)))
        self.next_avail = base  # shadow of avail idx: what add() will use next
        self.published = base  # avail idx as the device sees it
        self.next_used = base
        memory.store_u16(self.avail_gpa + 2, base)
        memory.store_u16(self.used_gpa + 2, base)
        self._free = deque(range(size))
        self._chains: dict[int, _Chain] = {}
        self.set_used_event(base)

    # Raw access: no rule is checked here.

    def write_desc(
        self,
        index: int,
        gpa: int,
        length: int,
        flags: int = 0,
        next_: int = 0,
        *,
        table_gpa: int | None = None,
    ) -> None:
        """Write descriptor ``index`` of the table (the queue's own, or an indirect one)."""
        base = self.desc_gpa if table_gpa is None else table_gpa
        self.memory.write(base + layout.DESC.size * index, layout.DESC.pack(gpa, length, flags, next_))

    def offer(self, head: int) -> None:
        """Put ``head`` in the next slot of the available ring, not yet published."""
        slot = self.next_avail % self.size
        self.memory.store_u16(self.avail_gpa + layout.RING_OFFSET + 2 * slot, head)
        self.next_avail = (self.next_avail + 1) & 0xFFFF

    def take_desc(self) -> int:
        """A free descriptor of the table; IndexError when there is none."""
        return self._free.popleft()

    def set_used_event(self, idx: int) -> None:
        """Ask for a call once the device passes used index ``idx`` (EVENT_IDX)."""
        self.memory.store_u16(self.avail_gpa + layout.used_event_offset(self.size), idx)

    @property
    def avail_event(self) -> int:
        """Where the device wants to be kicked (EVENT_IDX); the device can change it at any time."""
        return self.memory.load_u16(self.used_gpa + layout.avail_event_offset(self.size))

    @property
    def used_idx(self) -> int:
        """The device's used index; the device can change it at any time."""
        return self.memory.load_u16(self.used_gpa + 2)

    @property
    def used_flags(self) -> int:
        return self.memory.load_u16(self.used_gpa)

    # Lawful use.

    @property
    def room(self) -> int:
        """Free descriptors."""
        return len(self._free)

    def add(self, readable: Sequence[Buffer], writable: Sequence[Buffer], *, indirect: bool = False) -> int:
        """Build a chain, put it in the available ring and return its head. IndexError without room."""
        buffers = [(b, 0) for b in readable] + [(b, layout.DESC_WRITE) for b in writable]
        last = len(buffers) - 1
        if indirect:
            table = self.memory.allocate(layout.desc_table_size(len(buffers)))
            for i, (buffer, flags) in enumerate(buffers):
                more = layout.DESC_NEXT if i < last else 0
                self.write_desc(
                    i, buffer.gpa, buffer.length, flags | more, i + 1 if more else 0, table_gpa=table
                )
            head = self.take_desc()
            self.write_desc(head, table, layout.desc_table_size(len(buffers)), layout.DESC_INDIRECT)
            self._chains[head] = _Chain((head,), table)
        else:
            if len(buffers) > len(self._free):
                raise IndexError(f"{len(buffers)} descriptors wanted, {len(self._free)} free")
            descs = tuple(self.take_desc() for _ in buffers)
            for i, (buffer, flags) in enumerate(buffers):
                more = layout.DESC_NEXT if i < last else 0
                self.write_desc(
                    descs[i], buffer.gpa, buffer.length, flags | more, descs[i + 1] if more else 0
                )
            head = descs[0]
            self._chains[head] = _Chain(descs, None)
        self.offer(head)
        return head

    def publish(self, avail_idx: int | None = None) -> None:
        """Let the device see what was offered (or, to break the rules, any other index)."""
        self.memory.store_u16(self.avail_gpa + 2, self.next_avail if avail_idx is None else avail_idx)

    def kick(self, *, force: bool = False) -> bool:
        """Notify the device if it asked for it; True when the eventfd was written."""
        old, self.published = self.published, self.next_avail
        _fence()  # avail idx was stored before: pairs with the device's arm, fence, re-check
        if self.event_idx:
            wanted = layout.event_wanted(self.avail_event, self.next_avail, old)
        else:
            wanted = not self.used_flags & layout.USED_NO_NOTIFY
        if wanted or force:
            os.eventfd_write(self.kick_fd, 1)
        return wanted or force

    def submit(
        self, readable: Sequence[Buffer], writable: Sequence[Buffer], *, indirect: bool = False
    ) -> int:
        """add, publish, kick; returns the head."""
        head = self.add(readable, writable, indirect=indirect)
        self.publish()
        self.kick()
        return head

    def maybe_used(self) -> Used | None:
        """The next used element, or None; frees its descriptors. ValueError on a head not in flight."""
        if self.used_idx == self.next_used:
            return None
        slot = self.next_used % self.size
        element = self.memory.read(
            self.used_gpa + layout.RING_OFFSET + layout.USED_ELEM.size * slot, layout.USED_ELEM.size
        )
        used = Used(*layout.USED_ELEM.unpack(element))
        chain = self._chains.pop(used.head, None)
        if chain is None:
            raise ValueError(f"the device returned head {used.head}, which is not in flight")
        self.next_used = (self.next_used + 1) & 0xFFFF
        self._free.extend(chain.descs)
        if chain.indirect_gpa is not None:
            self.memory.free(chain.indirect_gpa)
        return used

    def wait_used(self, timeout: float = DEFAULT_TIMEOUT) -> Used:
        """The next used element; sleeps on the call eventfd. TimeoutError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            used = self.maybe_used()
            if used is not None:
                return used
            if self.event_idx:
                self.set_used_event(self.next_used)
                _fence()  # arm, fence, re-check: pairs with the device's push, fence, read used_event
                if self.used_idx != self.next_used:
                    continue
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not wait_eventfd(self.call_fd, remaining):
                raise TimeoutError(
                    f"no call within {timeout} s: next_used={self.next_used}, used_idx={self.used_idx}, "
                    f"next_avail={self.next_avail}, avail_event={self.avail_event}, "
                    f"used_flags={self.used_flags}"
                )

    def wait_error(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until the device signals err_fd: it found the ring broken. TimeoutError if it does not."""
        if not wait_eventfd(self.err_fd, timeout):
            raise TimeoutError(f"the device did not signal err_fd within {timeout} s")

    @property
    def in_flight(self) -> int:
        """Chains that were added and have not come back."""
        return len(self._chains)

    def close(self) -> None:
        """Close the eventfds. The memory is the caller's."""
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            os.close(fd)


def wait_eventfd(fd: int, timeout: float) -> bool:
    """Wait for a non-blocking eventfd and drain it; False after ``timeout`` seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(max(0, timeout) * 1000):
        return False
    os.eventfd_read(fd)
    return True
