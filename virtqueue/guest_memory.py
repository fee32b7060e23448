"""Guest memory of the mock front-end: regions in memfds, read and written by guest physical address.

Part of the driver-side mock (with ``driver``, ``frontend``, ``fuse_client``); the back-end never imports it.
Blocking and single-threaded: one thread owns a ``GuestMemory``.
"""

import mmap
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PAGE = 4096

# Guest physical addresses never reach the host's address space, so user addresses are made up: they only have
# to differ from guest addresses, or a back-end that mixes the two would pass our tests.
USER_ADDR_BASE = 0x7F00_0000_0000


@dataclass(frozen=True, slots=True)
class GuestRegion:
    """One region: ``size`` bytes at ``gpa``, from ``mmap_offset`` in its own memfd ``fd``.

    ``words`` are the same bytes, 16 bits at a time.
    """

    gpa: int
    size: int
    user_addr: int
    mmap_offset: int
    fd: int
    mapping: mmap.mmap
    words: memoryview


class GuestMemory:
    """Regions and an allocator over them. Close it (or use it as a context manager) to free the memfds.

    ``regions``: (gpa, bytes) of each region; adjacent ones may touch, so that a buffer can cross from one to
    the next. MemoryError when the allocator is out of room.
    """

    def __init__(self, regions: Sequence[tuple[int, int]] = ((0x10_0000, 16 << 20),)) -> None:
        self.regions: list[GuestRegion] = []
        self._next_gpa: dict[int, int] = {}  # region gpa -> first byte that was never allocated
        self._free: defaultdict[int, list[int]] = defaultdict(list)  # size class -> gpas
        self._size_class: dict[int, int] = {}  # allocated gpa -> size class
        for gpa, size in regions:
            self.add(gpa, size)

    def add(self, gpa: int, size: int, *, mmap_offset: int = 0, user_addr: int | None = None) -> GuestRegion:
        """Make one more region, backed by a new memfd. Numbers must be multiples of the page size."""
        fd = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
        os.ftruncate(fd, mmap_offset + size)
        mapping = mmap.mmap(fd, size, offset=mmap_offset)
        user_addr = USER_ADDR_BASE + gpa if user_addr is None else user_addr
        words = memoryview(mapping).cast("H")
        region = GuestRegion(gpa, size, user_addr, mmap_offset, fd, mapping, words)
        self.regions.append(region)
        self._next_gpa[gpa] = gpa
        return region

    def remove(self, region: GuestRegion) -> None:
        """Forget a region and close its memfd. What was allocated in it is gone."""
        self.regions.remove(region)
        del self._next_gpa[region.gpa]
        for gpas in self._free.values():
            gpas[:] = [gpa for gpa in gpas if not region.gpa <= gpa < region.gpa + region.size]
        region.words.release()
        region.mapping.close()
        os.close(region.fd)

    def allocate(self, size: int, *, region: GuestRegion | None = None) -> int:
        """Address of ``size`` bytes (contiguous, page aligned, contents undefined) inside one region."""
        size_class = max(PAGE, 1 << (size - 1).bit_length()) if size > 1 else PAGE
        if region is None and self._free[size_class]:
            gpa = self._free[size_class].pop()
            self._size_class[gpa] = size_class
            return gpa
        for candidate in self.regions if region is None else [region]:
            gpa = self._next_gpa[candidate.gpa]
            if gpa + size_class <= candidate.gpa + candidate.size:
                self._next_gpa[candidate.gpa] = gpa + size_class
                self._size_class[gpa] = size_class
                return gpa
        raise MemoryError(f"guest memory has no room for {size} bytes; make a larger region")

    def free(self, gpa: int) -> None:
        """Give back what ``allocate`` returned."""
        self._free[self._size_class.pop(gpa)].append(gpa)

    def user_addr(self, gpa: int) -> int:
        """The front-end's address of a guest address, as SET_VRING_ADDR wants it."""
        region, offset = self._find(gpa)
        return region.user_addr + offset

    def _find(self, gpa: int) -> tuple[GuestRegion, int]:
        for region in self.regions:
            if region.gpa <= gpa < region.gpa + region.size:
                return region, gpa - region.gpa
        raise ValueError(f"guest address {gpa:#x} is in no region")

    def _pieces(self, gpa: int, length: int) -> Iterator[tuple[GuestRegion, int, int]]:
        while length > 0:
            region, offset = self._find(gpa)
            count = min(length, region.size - offset)
            yield region, offset, count
            gpa += count
            length -= count

    def read(self, gpa: int, length: int) -> bytes:
        """Copy of guest memory; may cross regions that touch. ValueError outside of them."""
        return b"".join(r.mapping[offset : offset + count] for r, offset, count in self._pieces(gpa, length))

    def write(self, gpa: int, data: bytes) -> None:
        """Copy into guest memory; may cross regions that touch. ValueError outside of them."""
        done = 0
        for region, offset, count in self._pieces(gpa, len(data)):
            region.mapping[offset : offset + count] = data[done : done + count]
            done += count

    def load_u16(self, gpa: int) -> int:
        """One aligned 16-bit load: both bytes at once."""
        region, offset = self._find(gpa)
        value: int = region.words[offset // 2]
        return value

    def store_u16(self, gpa: int, value: int) -> None:
        """One aligned 16-bit store: the device never sees half of it (struct would write zeros first)."""
        region, offset = self._find(gpa)
        region.words[offset // 2] = value & 0xFFFF

    def close(self) -> None:
        while self.regions:
            self.remove(self.regions[-1])

    def __enter__(self) -> "GuestMemory":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
