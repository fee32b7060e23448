"""A back-end that counts what it delivers, for the metrics; the figures are of whole reads."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rafs.backend import BlobBackend
from rafs.backend.protocol import Adjustable
from rafs.errors import BlobUnavailable

#: upper ends of the first seven of eight groups: sizes in bytes, latencies in seconds
SIZE_LIMITS = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 512 << 10, 1 << 20)
LATENCY_LIMITS = (0.0002, 0.001, 0.02, 0.05, 0.5, 1.0, 2.0)
GROUPS = 8


@dataclass
class BackendStatistics:
    """Sums since the start. `..._by_size[i]`: of reads in the i-th group of SIZE_LIMITS.

    `errors_by_kind`: those of reads and of questions for a size, by `BlobUnavailable.kind`.
    """

    reads: int = 0
    errors: int = 0
    errors_by_kind: Counter[str] = field(default_factory=Counter)
    read_bytes: int = 0
    seconds: float = 0.0
    reads_by_size: list[int] = field(default_factory=lambda: [0] * GROUPS)
    seconds_by_size: list[float] = field(default_factory=lambda: [0.0] * GROUPS)
    reads_by_latency_and_size: list[list[int]] = field(
        default_factory=lambda: [[0] * GROUPS for _ in range(GROUPS)]
    )


class MeteredBackend:
    """A BlobBackend round another one. Reads that are cancelled do not count."""

    def __init__(self, backend: BlobBackend) -> None:
        self._backend = backend
        self.statistics = BackendStatistics()

    async def blob_size(self, blob_id: str) -> int:
        try:
            return await self._backend.blob_size(blob_id)
        except BlobUnavailable as error:
            self.statistics.errors_by_kind[error.kind] += 1
            raise

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        statistics, began = self.statistics, time.monotonic()
        try:
            data = await self._backend.read_range(blob_id, offset, length, again=again)
        except BlobUnavailable as error:
            statistics.reads += 1
            statistics.errors += 1
            statistics.errors_by_kind[error.kind] += 1
            raise
        seconds = time.monotonic() - began
        size = bisect_right(SIZE_LIMITS, len(data))
        statistics.reads += 1
        statistics.read_bytes += len(data)
        statistics.seconds += seconds
        statistics.reads_by_size[size] += 1
        statistics.seconds_by_size[size] += seconds
        statistics.reads_by_latency_and_size[bisect_right(LATENCY_LIMITS, seconds)][size] += 1
        return data

    def set(self, settings: Mapping[str, str]) -> None:
        """Of a back-end that has a use for some of them."""
        if isinstance(self._backend, Adjustable):
            self._backend.set(settings)

    async def close(self) -> None:
        await self._backend.close()
