"""What a cache directory may take of its disk, and what else is done with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """Of one cache directory. Sizes in bytes."""

    #: what all its files may take on the disk together; None: what there is
    quota: int | None = None
    #: what is left free on its file system, whoever fills it
    min_free: int = 0
    #: what may wait in memory when the disk has no room
    memory: int = 64 << 20
    #: of what lies on the disk, checked in a second; 0: it is not checked
    scrub_rate: int = 4 << 20
    #: whether a chunk that another blob of the directory has is taken from there
    dedup: bool = True

    @property
    def are_set(self) -> bool:
        """Whether anything has to be given up for them."""
        return self.quota is not None or self.min_free > 0


NO_LIMITS = CacheLimits()
