"""Split virtqueue: flags, area sizes and offsets (VIRTIO 1.2, section 2.7). Pure.

Every number in the three areas is little-endian (VERSION_1).
"""

import struct

# Descriptor flags.
DESC_NEXT = 1
DESC_WRITE = 2  # device-writable
DESC_INDIRECT = 4

AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1

MAX_QUEUE_SIZE = 32768

DESC = struct.Struct("<QIHH")  # gpa, length, flags, next
USED_ELEM = struct.Struct("<II")  # head, written length

DESC_ALIGN = 16
AVAIL_ALIGN = 2
USED_ALIGN = 4

RING_OFFSET = 4  # of the ring itself, in the available and in the used area


def desc_table_size(size: int) -> int:
    """Bytes of the descriptor table of a queue of ``size`` entries."""
    return DESC.size * size


def avail_size(size: int) -> int:
    """Bytes of the available area: flags, idx, ring, used_event."""
    return 6 + 2 * size


def used_size(size: int) -> int:
    """Bytes of the used area: flags, idx, ring, avail_event."""
    return 6 + USED_ELEM.size * size


def used_event_offset(size: int) -> int:
    """Where the driver writes used_event, from the start of the available area."""
    return RING_OFFSET + 2 * size


def avail_event_offset(size: int) -> int:
    """Where the device writes avail_event, from the start of the used area."""
    return RING_OFFSET + USED_ELEM.size * size


def event_wanted(event_idx: int, new_idx: int, old_idx: int) -> bool:
    """True when the move from ``old_idx`` to ``new_idx`` passed ``event_idx`` (2.7.10); all modulo 2**16."""
    return ((new_idx - event_idx - 1) & 0xFFFF) < ((new_idx - old_idx) & 0xFFFF)
