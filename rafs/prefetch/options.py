"""What a mount wants to have fetched ahead. Plain values; where they come from is the program's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1 << 20
MAX_WORKERS = 32  # more requests at once than that serve nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchOptions:
    """`files`: absolute paths of files and directories; None: those of the image's own table.

    `workers` is the number of requests at once, `batch_size` bounds one request, `bandwidth_limit` all of
    them, in bytes a second (0: no limit). `stream`: whole blobs, in the order in which they are stored, by
    large requests, one at a time, each begun only while nothing else is in flight. That is for a cache or
    peer on the node; behind a slow link, a read that comes meanwhile has to wait.
    """

    files: Sequence[str] | None = None
    everything: bool = False
    stream: bool = False
    workers: int = 8
    batch_size: int = MIB
    bandwidth_limit: int = 0
