"""Which chunks to ask the back-end for, and in which requests. Decides only; `fetch.py` does it.

A miss arrives as runs of chunk indices that the data plane moved from ABSENT to PENDING. Out of these:

- chunks that are READY meanwhile (another process completed them) need nothing but to be completed here;
- chunks whose record is not valid can only fail;
- the rest becomes ranged requests: sorted by where they are stored, neighbours joined while the gap between
  two is at most `max_gap` and the request does not grow over `max_request` stored or `max_plain` plain bytes.
  A chunk larger than that is a request of its own. Each wanted chunk is in exactly one request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rafs.blob_meta import BlobMeta, Chunk
from rafs.errors import RafsError

Run = tuple[int, int]  # (first chunk index, count)


@dataclass(frozen=True, slots=True)
class MergeLimits:
    """How far neighbouring chunks are joined. Bytes; of the stored blob but for `max_plain`.

    2 MiB is two default chunks in one round trip, small enough that a read waits for little else; 8 MiB
    bounds what that decodes to. A gap of 16 KiB costs less on the wire than the round trip it saves.
    """

    max_request: int = 2 << 20
    max_plain: int = 8 << 20
    max_gap: int = 16 << 10


@dataclass(frozen=True, slots=True)
class RangedRequest:
    """One read of `length` bytes at `offset` of the stored blob, and the chunks that lie in it."""

    offset: int
    length: int
    chunks: tuple[Chunk, ...]

    @property
    def plain_size(self) -> int:
        """Bytes that its chunks have when decoded."""
        return sum(chunk.uncompressed_size for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Misses:
    """What becomes of wanted chunks: `ready` and `wanted` by state, `broken` with the reason why."""

    ready: list[Run]
    wanted: list[Chunk]
    broken: list[tuple[Run, RafsError]]


def sort_misses(runs: Iterable[Run], meta: BlobMeta, is_ready: Callable[[int], bool]) -> Misses:
    """Sort chunks that the data plane asks for; it has checked that they exist.

    A chunk that is in two runs is taken once.
    """
    ready: list[int] = []
    broken: list[tuple[Run, RafsError]] = []
    wanted: dict[int, Chunk] = {}
    for first, count in runs:
        missing = []
        for index in range(first, first + count):
            if is_ready(index):
                ready.append(index)
            elif index not in wanted:
                missing.append(index)
        for start, length in runs_of(missing):
            try:
                wanted.update((chunk.chunk_idx, chunk) for chunk in meta.chunks(start, length))
            except RafsError:
                _sort_one_by_one((start, length), meta, wanted, broken)
    return Misses(list(runs_of(sorted(ready))), [wanted[index] for index in sorted(wanted)], broken)


def _sort_one_by_one(
    run: Run, meta: BlobMeta, wanted: dict[int, Chunk], broken: list[tuple[Run, RafsError]]
) -> None:
    """Of a run with a bad record, find out which ones are bad."""
    for index in range(run[0], run[0] + run[1]):
        if index in wanted:
            continue
        try:
            wanted[index] = meta.chunk(index)
        except RafsError as error:
            broken.append(((index, 1), error))


def plan_requests(chunks: Iterable[Chunk], limits: MergeLimits) -> list[RangedRequest]:
    """Join chunks of one blob to ranged requests, in the order in which they are stored."""
    requests: list[RangedRequest] = []
    joined: list[Chunk] = []
    start = end = plain = 0

    def cut() -> None:
        if joined:
            requests.append(RangedRequest(start, end - start, tuple(joined)))
            joined.clear()

    for chunk in sorted(chunks, key=lambda chunk: (chunk.compressed_offset, chunk.chunk_idx)):
        gap = chunk.compressed_offset - end
        new_end = max(end, chunk.compressed_end)
        plain += chunk.uncompressed_size
        if gap > limits.max_gap or new_end - start > limits.max_request or plain > limits.max_plain:
            cut()
        if not joined:
            start, new_end, plain = chunk.compressed_offset, chunk.compressed_end, chunk.uncompressed_size
        joined.append(chunk)
        end = new_end
    cut()
    return requests


def split_work(chunks: Iterable[Chunk], target: int) -> Iterator[list[Chunk]]:
    """Cut chunks into pieces of work of about `target` plain bytes, so that threads share a large request."""
    piece: list[Chunk] = []
    size = 0
    for chunk in chunks:
        piece.append(chunk)
        size += chunk.uncompressed_size
        if size >= target:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def runs_of(indices: Iterable[int]) -> Iterator[Run]:
    """Yield runs of consecutive numbers. `indices` ascend; a repeated one counts once."""
    first = count = 0
    for index in indices:
        if count and index == first + count:
            count += 1
        elif count and first <= index < first + count:
            continue
        else:
            if count:
                yield first, count
            first, count = index, 1
    if count:
        yield first, count
