"""From an ordered list of chunk runs to ordered requests: neighbours are merged, but the order is kept.

Runs are taken a window at a time. Within it, neighbouring chunks of a blob become one request, wherever in
the window they stood, and requests go in the order of their earliest chunk. So no chunk waits for more than
a window's bytes that the order has behind it. Decides only; `prefetcher.py` does it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rafs.blob_meta import BlobMeta, Chunk
from rafs.chunk_state import MergeLimits, plan_requests
from rafs.errors import RafsError
from rafs.prefetch.plan import ChunkRun

GAP_SHARE = 8
MAX_WINDOW_CHUNKS = 512  # whose records are decoded at once: a millisecond on the event loop


class Request(NamedTuple):
    """Neighbouring chunks of one blob. `ranks`: which of the list's chunks they are, counted from 0."""

    blob_index: int
    chunks: tuple[Chunk, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OrderLimits:
    """`window`: stored bytes that are merged at once; `request`: those of one request, or else one chunk."""

    window: int
    request: int

    @property
    def merge(self) -> MergeLimits:
        # Bytes between two chunks cost less than another request up to some part of what a request brings;
        # plain bytes bound how long threads decode.
        return MergeLimits(
            max_request=self.request, max_plain=4 * self.request, max_gap=self.request // GAP_SHARE
        )


def order_requests(
    runs: Iterable[ChunkRun],
    metas: Sequence[BlobMeta],
    is_wanted: Callable[[int, int], bool],
    limits: Callable[[], OrderLimits],
) -> Iterator[Request]:
    """Yield requests for the chunks of `runs` that are wanted: `is_wanted(blob_index, chunk_index)`.

    `limits` is asked before each window. A chunk that comes twice is taken once; one whose record is not
    valid is left to the read that wants it.
    """
    seen: list[set[int]] = [set() for _ in metas]
    pending: list[tuple[int, int, Chunk]] = []  # (rank, blob index, chunk)
    limit, stored = limits(), 0
    for rank, blob_index, chunk in _chunks(runs, metas):
        if chunk.chunk_idx in seen[blob_index]:
            continue
        seen[blob_index].add(chunk.chunk_idx)
        if not is_wanted(blob_index, chunk.chunk_idx):
            continue
        pending.append((rank, blob_index, chunk))
        stored += chunk.compressed_size
        if stored >= limit.window or len(pending) >= MAX_WINDOW_CHUNKS:
            yield from _merge(pending, limit.merge)
            pending, limit, stored = [], limits(), 0
    yield from _merge(pending, limit.merge)


def _chunks(runs: Iterable[ChunkRun], metas: Sequence[BlobMeta]) -> Iterator[tuple[int, int, Chunk]]:
    rank = 0
    for blob_index, first, count in runs:
        if not 0 <= blob_index < len(metas):
            continue
        end = min(first + count, len(metas[blob_index]))
        for start in range(first, end, MAX_WINDOW_CHUNKS):
            for chunk in _valid(metas[blob_index], start, min(MAX_WINDOW_CHUNKS, end - start)):
                yield rank + chunk.chunk_idx - first, blob_index, chunk
        rank += count


def _valid(meta: BlobMeta, first: int, count: int) -> Iterator[Chunk]:
    try:
        yield from list(meta.chunks(first, count))
    except RafsError:
        for index in range(first, first + count):
            try:
                yield meta.chunk(index)
            except RafsError:
                continue


def _merge(pending: list[tuple[int, int, Chunk]], limits: MergeLimits) -> Iterator[Request]:
    ranks = {(blob_index, chunk.chunk_idx): rank for rank, blob_index, chunk in pending}
    by_blob: defaultdict[int, list[Chunk]] = defaultdict(list)
    for _, blob_index, chunk in pending:
        by_blob[blob_index].append(chunk)
    requests = [
        Request(
            blob_index, planned.chunks, tuple(ranks[blob_index, chunk.chunk_idx] for chunk in planned.chunks)
        )
        for blob_index, chunks in by_blob.items()
        for planned in plan_requests(chunks, limits)
    ]
    yield from sorted(requests, key=lambda request: min(request.ranks))
