"""What to ask for: merging keeps its promises for any chunks, states are told apart."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.dataplane import BLOB_RECORD
from rafs.blob_meta import BlobMeta, Chunk
from rafs.blob_record import BlobRecord
from rafs.chunk_state import MergeLimits, plan_requests, runs_of, sort_misses, split_work
from rafs.errors import ImageCorrupt
from tests.fakes.blobs import ci_record_v1, make_blob, make_chunks


def chunk(index: int, offset: int, size: int, plain: int = 1) -> Chunk:
    return Chunk(index, index << 20, size + plain, offset, size, True)


@st.composite
def blobs_of_chunks(draw: st.DrawFn) -> list[Chunk]:
    """Chunks as a sound blob has them: in order, with gaps; some are wanted, in any order, some twice."""
    chunks, at = [], 0
    for index in range(draw(st.integers(0, 30))):
        at += draw(st.sampled_from([0, 0, 0, 1, 99, 100, 101, 5000]))
        size = draw(st.integers(1, 1500))
        chunks.append(chunk(index, at, size, draw(st.integers(0, 2000))))
        at += size
    wanted = [c for c in chunks if draw(st.booleans())]
    return draw(st.permutations(wanted))


limits = st.builds(
    MergeLimits,
    max_request=st.integers(1, 4000),
    max_gap=st.integers(0, 200),
    max_plain=st.integers(1, 9000) | st.just(1 << 20),
)


@given(chunks=blobs_of_chunks(), limits=limits)
def test_merged_requests(chunks: list[Chunk], limits: MergeLimits) -> None:
    requests = plan_requests(chunks, limits)
    assert Counter(c for request in requests for c in request.chunks) == Counter(chunks)  # each exactly once
    for request in requests:
        assert request.chunks
        end = request.offset + request.length
        assert request.offset == min(c.compressed_offset for c in request.chunks)
        assert end == max(c.compressed_end for c in request.chunks)
        assert request.length <= limits.max_request or len(request.chunks) == 1
        assert request.plain_size <= limits.max_plain or len(request.chunks) == 1
        for before, after in itertools.pairwise(request.chunks):
            assert after.compressed_offset - before.compressed_end <= limits.max_gap
    for one, other in itertools.pairwise(requests):
        # not split without need
        gap = other.offset - (one.offset + one.length)
        joined = other.chunks[0].compressed_end - one.offset
        plain = one.plain_size + other.chunks[0].uncompressed_size
        assert gap > limits.max_gap or joined > limits.max_request or plain > limits.max_plain


@given(
    chunks=st.lists(
        st.builds(chunk, st.integers(0, 50), st.integers(0, 3000), st.integers(1, 1500)),
        unique_by=lambda c: c.chunk_idx,
    ),
    limits=limits,
)
def test_chunks_that_overlap_in_a_hostile_blob_are_still_covered(
    chunks: list[Chunk], limits: MergeLimits
) -> None:
    requests = plan_requests(chunks, limits)
    assert Counter(c for request in requests for c in request.chunks) == Counter(chunks)
    for request in requests:
        assert request.length <= limits.max_request or len(request.chunks) == 1
        for c in request.chunks:
            assert request.offset <= c.compressed_offset
            assert c.compressed_end <= request.offset + request.length


@given(sizes=st.lists(st.integers(1, 500), max_size=30), target=st.integers(1, 2000))
def test_work_is_cut_in_order(sizes: list[int], target: int) -> None:
    chunks = [chunk(index, 0, size, 0) for index, size in enumerate(sizes)]
    pieces = list(split_work(chunks, target))
    assert [c for piece in pieces for c in piece] == chunks
    for piece in pieces:
        assert sum(c.uncompressed_size for c in piece[:-1]) < target


@given(indices=st.lists(st.integers(0, 40)).map(sorted))
def test_runs(indices: list[int]) -> None:
    runs = list(runs_of(indices))
    assert [i for first, count in runs for i in range(first, first + count)] == sorted(set(indices))
    for (first, count), (after, _) in itertools.pairwise(runs):
        assert first + count < after


@pytest.fixture
def meta() -> BlobMeta:
    fake = make_blob(make_chunks([100] * 10))
    content = bytearray(fake.meta_file)
    content[6 * 16 : 7 * 16] = ci_record_v1(6 * 4096, 100, 1 << 30, 100)  # stored outside of the blob
    record = BlobRecord.parse(BLOB_RECORD.parse(fake.entry))
    return BlobMeta(record, lambda offset, length: bytes(content[offset : offset + length]))


def test_misses_are_sorted_by_state(meta: BlobMeta) -> None:
    misses = sort_misses([(4, 5), (0, 3), (1, 2)], meta, {1, 4, 5}.__contains__)
    assert misses.ready == [(1, 1), (4, 2)]
    assert [c.chunk_idx for c in misses.wanted] == [0, 2, 7, 8]
    ((run, error),) = misses.broken
    assert run == (6, 1)
    assert isinstance(error, ImageCorrupt)


def test_all_ready_reads_no_record(meta: BlobMeta) -> None:
    def read(offset: int, length: int) -> bytes:
        raise AssertionError

    misses = sort_misses([(0, 10)], replace(meta, read=read), lambda index: True)
    assert (misses.ready, misses.wanted, misses.broken) == ([(0, 10)], [], [])
