"""Runs of chunks become requests: every wanted chunk once, neighbours together, never far out of order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from native.dataplane import BLOB_RECORD
from rafs.blob_meta import BlobMeta
from rafs.blob_record import BlobRecord
from rafs.prefetch.order import GAP_SHARE, OrderLimits, Request, order_requests
from rafs.prefetch.plan import ChunkRun
from tests.fakes.blobs import NONE, FakeBlob, make_blob, make_chunks

SIZE = 4096
COUNT = 60
FAKES = [make_blob(make_chunks([SIZE] * COUNT, seed=seed), codec=NONE) for seed in (1, 2)]


def meta_of(fake: FakeBlob, meta_file: bytes | None = None) -> BlobMeta:
    content = fake.meta_file if meta_file is None else meta_file
    return BlobMeta(BlobRecord.parse(BLOB_RECORD.parse(fake.entry)), lambda at, size: content[at : at + size])


Wanted = set[tuple[int, int]]  # (blob index, chunk index)
METAS = [meta_of(fake) for fake in FAKES]


def order(runs: list[ChunkRun], limits: OrderLimits, wanted: Wanted | None = None) -> list[Request]:
    def is_wanted(blob_index: int, chunk: int) -> bool:
        return wanted is None or (blob_index, chunk) in wanted

    return list(order_requests(runs, METAS, is_wanted, lambda: limits))


def test_neighbours_of_a_window_are_merged_and_the_earliest_goes_first() -> None:
    runs = [ChunkRun(0, 7, 1), ChunkRun(1, 3, 2), ChunkRun(0, 40, 1), ChunkRun(0, 8, 1), ChunkRun(0, 6, 1)]
    requests = order(runs, OrderLimits(window=6 * SIZE, request=8 * SIZE))
    assert [(r.blob_index, [c.chunk_idx for c in r.chunks]) for r in requests] == [
        (0, [6, 7, 8]),
        (1, [3, 4]),
        (0, [40]),
    ]
    assert requests[0].ranks == (5, 0, 4)


def test_limits_are_asked_before_each_window() -> None:
    sizes = iter([1, 2, 3, 4, 5, 6, 7])
    requests = order_requests(
        [ChunkRun(0, 0, COUNT)],
        METAS,
        lambda *_: True,
        lambda: OrderLimits(window=10 * SIZE, request=next(sizes) * SIZE),
    )
    assert [len(r.chunks) for r in requests][:18] == [1] * 10 + [2] * 5 + [3, 3, 3]


def test_a_bad_record_costs_that_chunk_only() -> None:
    bad = bytearray(FAKES[0].meta_file)
    bad[16 * 4 + 8 : 16 * 4 + 13] = b"\xff" * 5
    requests = order_requests(
        [ChunkRun(0, 0, 8)],
        [meta_of(FAKES[0], bytes(bad))],
        lambda *_: True,
        lambda: OrderLimits(1 << 20, 1 << 20),
    )
    assert [c.chunk_idx for r in requests for c in r.chunks] == [0, 1, 2, 3, 5, 6, 7]


def test_what_the_image_does_not_have_is_left_out() -> None:
    requests = order([ChunkRun(7, 0, 3), ChunkRun(0, COUNT - 2, 99)], OrderLimits(1 << 20, 1 << 20))
    assert [(r.blob_index, len(r.chunks)) for r in requests] == [(0, 2)]


runs_strategy = st.lists(
    st.builds(ChunkRun, st.integers(0, 1), st.integers(0, COUNT - 1), st.integers(1, 12)), max_size=40
)
unwanted_strategy = st.sets(st.tuples(st.integers(0, 1), st.integers(0, COUNT)))


@settings(max_examples=200, deadline=None)
@given(
    runs_strategy,
    st.integers(1, 30),
    st.integers(1, 30),
    st.sets(st.tuples(st.integers(0, 1), st.integers(0, COUNT))),
)
def test_each_wanted_chunk_comes_once_and_in_its_window(
    runs: list[ChunkRun], window: int, request: int, unwanted: Wanted
) -> None:
    given_order: list[tuple[int, int]] = []
    for blob_index, first, count in runs:
        for chunk in range(first, min(first + count, COUNT)):
            if (blob_index, chunk) not in unwanted and (blob_index, chunk) not in given_order:
                given_order.append((blob_index, chunk))
    requests = order(runs, OrderLimits(window * SIZE, request * SIZE), set(given_order))
    got = [(r.blob_index, chunk.chunk_idx) for r in requests for chunk in r.chunks]
    assert sorted(got) == sorted(given_order)
    for place, chunk_of in enumerate(got):
        assert abs(place - given_order.index(chunk_of)) < window
    for one in requests:
        indices = [chunk.chunk_idx for chunk in one.chunks]
        gaps = [after - before - 1 for before, after in pairwise(indices)]
        assert all(0 <= gap <= request // GAP_SHARE for gap in gaps)
        assert len(indices) <= max(request, 1)
