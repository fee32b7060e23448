"""What a worker has by way of its agent, and keeps all that a successor of the agent must be told of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from native.dataplane import Blob
from rafs.blob_record import BlobRecord
from rafs.limits import NO_LIMITS, CacheLimits
from rafs.prefetch.options import PrefetchOptions
from vhostfs.agent.bootstrap import Told


@dataclass(eq=False)
class BlobSpec:
    """All that an agent must be told to serve a blob; kept, since its successor must be told too.

    `backend`: encode_backend. `files`: paths in it that are read, opened anew each time. `chunks_fd`: see
    bootstrap.py; it is taken over, -1 for none.
    """

    record: BlobRecord
    backend: bytes
    settings: dict[str, str] = field(default_factory=dict)
    limits: CacheLimits = NO_LIMITS
    files: Sequence[str] = ()
    told: Told = ""
    chunks_fd: int = -1

    def close(self) -> None:
        if self.chunks_fd >= 0:
            os.close(self.chunks_fd)
        self.chunks_fd = -1


class LinkedBlob:
    """A blob whose chunks the agent fetches. `native` reads its cache."""

    def __init__(self, handle: int, spec: BlobSpec, native: Blob, inode: tuple[int, int]) -> None:
        self.handle = handle
        self.spec = spec
        self.native = native
        self.inode = inode

    @property
    def blob_id(self) -> str:
        return self.spec.record.blob_id


class LinkedPrefetch:
    """What is fetched ahead, and the plan, since an agent's successor must be told too."""

    def __init__(self, number: int, handles: list[int], plan_fd: int, options: PrefetchOptions) -> None:
        self.number = number
        self.handles = handles
        self.plan_fd = plan_fd
        self.options = options

    def close(self) -> None:
        if self.plan_fd >= 0:
            os.close(self.plan_fd)
        self.plan_fd = -1
