"""``MemoryTable``: which regions of guest memory the front-end has shared. Pure; nothing is mapped here.

The table is a value: a change gives a new one, or raises ``RequestRefused`` and leaves the old one as it was.
The data plane checks the same rules again before it maps; here they get a text that names the regions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from virtqueue.errors import RequestRefused
from virtqueue.messages import RegionBody

# What Linux's vhost offers, and QEMU takes as "as many as the machine has slots".
MAX_MEM_SLOTS = 509

ADDRESS_END = 1 << 64


def _span(region: RegionBody) -> str:
    return f"region {region.gpa:#x}+{region.size:#x}"


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """Disjoint regions, at most MAX_MEM_SLOTS."""

    regions: tuple[RegionBody, ...] = ()

    def replaced(self, regions: Iterable[RegionBody]) -> "MemoryTable":
        """SET_MEM_TABLE: these regions and no others."""
        table = MemoryTable()
        for region in regions:
            table = table.added(region)
        return table

    def added(self, new: RegionBody) -> "MemoryTable":
        """ADD_MEM_REG. Refused when the region is empty, wraps or overlaps, or there is no free slot."""
        if new.size == 0:
            raise RequestRefused(f"{_span(new)} is empty")
        for what, start in (("guest", new.gpa), ("user", new.user_addr), ("file", new.mmap_offset)):
            if start + new.size > ADDRESS_END:
                raise RequestRefused(f"{_span(new)} wraps: its {what} addresses begin at {start:#x}")
        for old in self.regions:
            if new.gpa < old.gpa + old.size and old.gpa < new.gpa + new.size:
                raise RequestRefused(f"{_span(new)} overlaps {_span(old)}")
            if new.user_addr < old.user_addr + old.size and old.user_addr < new.user_addr + new.size:
                raise RequestRefused(f"{_span(new)} overlaps {_span(old)} in user addresses")
        if len(self.regions) >= MAX_MEM_SLOTS:
            raise RequestRefused(f"{_span(new)}: all {MAX_MEM_SLOTS} memory slots are taken")
        return MemoryTable((*self.regions, new))

    def removed(self, gone: RegionBody) -> "MemoryTable":
        """REM_MEM_REG: the region with this guest address, size and user address (its offset is ignored)."""
        key = (gone.gpa, gone.size, gone.user_addr)
        left = tuple(r for r in self.regions if (r.gpa, r.size, r.user_addr) != key)
        if len(left) == len(self.regions):
            raise RequestRefused(f"{_span(gone)} at user address {gone.user_addr:#x} was never shared")
        return MemoryTable(left)
