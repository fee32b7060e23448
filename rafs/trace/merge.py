"""Many traces of one program, one of what they have in common: chunks in the order of their median rank.

A chunk's rank in a trace is its place there. A trace that is a merged one itself counts as the runs that it
was made of. What is read in few runs only stays, with its share of the runs as confidence; whoever prefetches
decides what share is worth it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from native.trace import MAX_TRACE_BLOBS, MAX_TRACE_RECORDS
from rafs.trace.errors import TraceError
from rafs.trace.format import Access, Trace

MAX_RUNS = 0xFFFF


@dataclass
class _Seen:
    ranks: list[tuple[int, int]] = field(default_factory=list)  # (rank, runs)
    times: list[tuple[int, int]] = field(default_factory=list)  # (ns, runs)
    first: Access | None = None


def merge_traces(traces: Sequence[Trace]) -> Trace:
    """Merge; nids are those of the last trace that has the chunk. Raises TraceError: none, or too many."""
    if not traces:
        raise TraceError("there is no trace to merge")
    runs = sum(trace.runs for trace in traces)
    blobs = list(dict.fromkeys(blob_id for trace in traces for blob_id in trace.blobs))
    if runs > MAX_RUNS or len(blobs) > MAX_TRACE_BLOBS:
        raise TraceError(f"{runs} runs that read {len(blobs)} blobs are too many for one trace")
    blob_index = {blob_id: index for index, blob_id in enumerate(blobs)}
    seen: defaultdict[tuple[int, int], _Seen] = defaultdict(_Seen)
    for trace in traces:
        for rank, access in enumerate(trace.accesses):
            chunk = seen[blob_index[trace.blobs[access.blob_index]], access.chunk_index]
            chunk.ranks.append((rank, access.runs))
            chunk.times.append((access.time_ns, access.runs))
            chunk.first = access
    order = sorted(seen, key=lambda chunk: (_median(seen[chunk].ranks), chunk))
    merged = [_merged(seen[chunk], *chunk) for chunk in order]
    images = {trace.image_sha256 for trace in traces}
    return Trace(
        blobs=tuple(blobs),
        accesses=tuple(merged[:MAX_TRACE_RECORDS]),
        image_sha256=traces[-1].image_sha256 if len(images) == 1 else bytes(32),
        runs=runs,
        dropped=sum(trace.dropped for trace in traces) + max(len(merged) - MAX_TRACE_RECORDS, 0),
        started_at_s=max(trace.started_at_s for trace in traces),
        duration_ns=max(trace.duration_ns for trace in traces),
    )


def _merged(seen: _Seen, blob_index: int, chunk_index: int) -> Access:
    assert seen.first is not None
    return seen.first._replace(
        time_ns=_median(seen.times),
        blob_index=blob_index,
        chunk_index=chunk_index,
        pid=0,
        uid=0,
        runs=sum(runs for _, runs in seen.ranks),
    )


def _median(weighted: list[tuple[int, int]]) -> int:
    """The lower median of values that count as often as their weight says."""
    left = (sum(weight for _, weight in weighted) + 1) // 2
    for value, weight in sorted(weighted):
        left -= weight
        if left <= 0:
            return value
    raise AssertionError("weights are at least 1")
