"""Is an image sound? Its structure, what its parts say of each other, and every byte of its blobs.

`check_image` goes on after a fault, so that one run names all: where (which byte of the bootstrap or of a
blob, which file), and what is wrong. A *warning* is what readers do not mind, and upstream's builder may
write.

What metadata says is not signed: a bootstrap that says other things without contradicting itself passes. Only
v5 has digests of inodes, and only of their contents (format specification, 4.7).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from rafs.filesystem import Filesystem
from rafs.tools.check_data import check_blobs
from rafs.tools.check_digests import check_digests
from rafs.tools.check_tree import TreeCheck
from rafs.tools.faults import Fault, Faults

__all__ = ["Fault", "Report", "check_image"]


@dataclass(frozen=True)
class Report:
    """What was found. `counts`: names, inodes, chunks and the like, for people."""

    faults: list[Fault]
    fault_count: int  # may be more than are listed
    warnings: list[str]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        return self.fault_count == 0


def check_image(
    filesystem: Filesystem,
    *,
    data: bool = True,
    limit: int = 100,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check all there is. `data`: the blobs too, which must then be at hand.

    Raises BlobUnavailable where a back-end cannot be asked; a blob that is missing is a fault. At most
    `limit` faults are listed. `progress(done, total)` hears of stored bytes of blobs.
    """
    faults = Faults(limit)
    counts: Counter[str] = Counter()
    tree = TreeCheck(filesystem, faults, counts, data=data)
    tree.run()
    if filesystem.image.version == 5:
        check_digests(filesystem, tree, faults)
    if data:
        check_blobs(filesystem, tree, faults, counts, progress)
    return Report(faults.listed, faults.count, faults.warnings, dict(counts))
