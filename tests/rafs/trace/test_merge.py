"""Merging: median ranks, shares of runs, and no dependence on the order of what is merged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafs.trace.errors import TraceError
from rafs.trace.format import Trace, pack_trace, parse_trace
from rafs.trace.merge import merge_traces
from tests.rafs.trace.traces import SHA256, trace_of


def chunks_of(trace: Trace) -> list[tuple[int, int]]:
    return [(access.blob_index, access.chunk_index) for access in trace.accesses]


def test_the_median_rank_decides() -> None:
    merged = merge_traces(
        [
            trace_of([(0, 1), (0, 2), (0, 3), (0, 4)]),
            trace_of([(0, 2), (0, 1), (0, 3), (0, 4)]),
            trace_of([(0, 4), (0, 1), (0, 2), (0, 3)]),
        ]
    )
    assert chunks_of(merged) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert merged.runs == 3 and all(access.runs == 3 for access in merged.accesses)
    assert all((access.pid, access.uid) == (0, 0) for access in merged.accesses)


def test_what_few_runs_read_keeps_its_share() -> None:
    merged = merge_traces([trace_of([(0, 1)]), trace_of([(0, 1), (1, 9)]), trace_of([(0, 1)])])
    assert {(a.blob_index, a.chunk_index): a.runs for a in merged.accesses} == {(0, 1): 3, (1, 9): 1}


def test_a_merged_trace_counts_as_its_runs() -> None:
    one, other = trace_of([(0, 1), (0, 2)]), trace_of([(0, 2), (0, 1)])
    three = merge_traces([one, one, one])
    assert chunks_of(merge_traces([other, other, three])) == [(0, 1), (0, 2)]
    assert merge_traces([other, other, three]).runs == 5


def test_blobs_are_matched_by_id() -> None:
    one = trace_of([(0, 1)])
    other = replace(trace_of([(1, 1)]), blobs=("d" * 64, one.blobs[0]))
    merged = merge_traces([one, other])
    assert merged.blobs == (*one.blobs, "d" * 64)
    assert chunks_of(merged) == [(0, 1)] and merged.accesses[0].runs == 2


def test_traces_of_different_bootstraps_are_of_none() -> None:
    one = trace_of([(0, 1)])
    assert merge_traces([one, one]).image_sha256 == SHA256
    assert merge_traces([one, replace(one, image_sha256=bytes(31) + b"x")]).image_sha256 == bytes(32)


def test_what_cannot_be_merged() -> None:
    with pytest.raises(TraceError, match="no trace"):
        merge_traces([])
    with pytest.raises(TraceError, match="too many"):
        merge_traces([trace_of([(0, 1)], runs=0xFFFF), trace_of([(0, 1)])])


chunk_lists = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), unique=True, max_size=25)


@settings(max_examples=200, deadline=None)
@given(st.lists(chunk_lists, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_traces(lists: list[list[tuple[int, int]]], random: object) -> None:
    given_traces = [trace_of(chunks) for chunks in lists]
    merged = merge_traces(given_traces)
    assert parse_trace(pack_trace(merged)) == merged
    counts = {chunk: sum(chunk in chunks for chunks in lists) for chunks in lists for chunk in chunks}
    assert {(a.blob_index, a.chunk_index): a.runs for a in merged.accesses} == counts
    shuffled = list(given_traces)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert chunks_of(merge_traces(shuffled)) == chunks_of(merged)
    if len(lists) == 1:
        assert chunks_of(merged) == lists[0]
