"""The device half of a split virtqueue over the mock's guest memory: the oracle for ``Driver``.

Written from VIRTIO 1.2, section 2.7, without looking at the driver's code. It reads and writes guest memory
only through ``GuestMemory`` and raises ``BrokenRing`` where a device must stop. Single-threaded: a test calls
``serve`` after the driver has kicked.
"""

import os
import struct
from collections.abc import Callable

from virtqueue import layout
from virtqueue.driver import Driver, wait_eventfd

# readable bytes, writable bytes of room -> reply
Handler = Callable[[bytes, int], bytes]


class BrokenRing(Exception):
    """The driver broke the ring's rules."""


class SplitDevice:
    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.memory = driver.memory
        self.size = driver.size
        self.next_avail = self.next_used = driver.published

    def _descs(self, table: int, count: int, index: int, *, nested: bool) -> list[tuple[int, int, int]]:
        """(gpa, length, flags) of each buffer of a chain."""
        found: list[tuple[int, int, int]] = []
        for _ in range(count):
            if index >= count:
                raise BrokenRing(f"descriptor {index} of {count}")
            gpa, length, flags, following = layout.DESC.unpack(self._read(table + 16 * index, 16))
            if flags & layout.DESC_INDIRECT:
                if nested or flags & layout.DESC_NEXT or not length or length % 16:
                    raise BrokenRing("bad indirect descriptor")
                found += self._descs(gpa, length // 16, 0, nested=True)
                return found
            if found and found[-1][2] & layout.DESC_WRITE and not flags & layout.DESC_WRITE:
                raise BrokenRing("readable after writable")
            found.append((gpa, length, flags))
            if not flags & layout.DESC_NEXT:
                return found
            index = following
        raise BrokenRing("loop")

    def _read(self, gpa: int, length: int) -> bytes:
        try:
            return self.memory.read(gpa, length)
        except ValueError as error:
            raise BrokenRing(str(error)) from error

    def serve(self, handler: Handler) -> int:
        """Answer everything that is available; returns how many chains. Calls as the driver asked for it."""
        d = self.driver
        wait_eventfd(d.kick_fd, 0)
        before, served = self.next_used, 0
        while True:
            avail_idx = self.memory.load_u16(d.avail_gpa + 2)
            ahead = (avail_idx - self.next_avail) & 0xFFFF
            if ahead > self.size:
                raise BrokenRing(f"avail idx {ahead} ahead")
            if not ahead:
                break
            slot = self.next_avail % self.size
            (head,) = struct.unpack("<H", self.memory.read(d.avail_gpa + 4 + 2 * slot, 2))
            self.next_avail = (self.next_avail + 1) & 0xFFFF
            written = self._answer(head, handler)
            element = d.used_gpa + 4 + 8 * (self.next_used % self.size)
            self.memory.write(element, struct.pack("<II", head, written))
            self.next_used = (self.next_used + 1) & 0xFFFF
            self.memory.store_u16(d.used_gpa + 2, self.next_used)
            served += 1
        self.memory.store_u16(d.used_gpa + layout.avail_event_offset(self.size), self.next_avail)
        used_event = self.memory.load_u16(d.avail_gpa + layout.used_event_offset(self.size))
        if served and (not d.event_idx or layout.event_wanted(used_event, self.next_used, before)):
            os.eventfd_write(d.call_fd, 1)
        return served

    def _answer(self, head: int, handler: Handler) -> int:
        descs = self._descs(self.driver.desc_gpa, self.size, head, nested=False)
        readable = b"".join(self._read(g, n) for g, n, flags in descs if not flags & layout.DESC_WRITE)
        writable = [(g, n) for g, n, flags in descs if flags & layout.DESC_WRITE]
        for gpa, length in writable:
            self._read(gpa, length)
        reply = handler(readable, sum(n for _, n in writable))
        rest = reply
        for gpa, length in writable:
            self.memory.write(gpa, rest[:length])
            rest = rest[length:]
        assert not rest, "the handler answered more than there is room for"
        return len(reply)
