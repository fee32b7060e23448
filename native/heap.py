"""The process's own heap: native/c/heap.c."""

from __future__ import annotations

from native._dataplane import lib


def trim() -> None:
    """Give memory that is free back to the system. After much was freed at once, such as after imports."""
    lib.vfs_heap_trim()
