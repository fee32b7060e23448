"""Traces that tests make up."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from rafs.trace.format import Access, Trace

BLOBS = tuple(character * 64 for character in "abc")
SHA256 = bytes(range(32))


def trace_of(chunks: Sequence[tuple[int, int]], *, runs: int = 1, **changes: int) -> Trace:
    """A trace that read these (blob index, chunk index) in this order, a millisecond each."""
    accesses = tuple(
        Access(rank * 1_000_000, 100 + chunk, chunk << 20, 4096, blob, chunk, pid=7, uid=8, runs=runs)
        for rank, (blob, chunk) in enumerate(chunks)
    )
    fields = {"started_at_s": 1_700_000_000, "duration_ns": 5_000_000, **changes}
    return Trace(blobs=BLOBS, accesses=accesses, image_sha256=SHA256, runs=runs, **fields)


_U32, _U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Any trace that can be."""
    runs = draw(st.integers(1, 0xFFFF))
    in_runs, flags = st.integers(1, runs), st.integers(0, 9)
    access = st.builds(Access, _U64, _U64, _U64, _U32, st.integers(0, 2), _U32, _U32, _U32, in_runs, flags)
    accesses = draw(
        st.lists(access, max_size=30, unique_by=lambda access: (access.blob_index, access.chunk_index))
    )
    return Trace(
        blobs=BLOBS,
        accesses=tuple(accesses),
        image_sha256=draw(st.binary(min_size=32, max_size=32)),
        runs=runs,
        dropped=draw(_U64),
        started_at_s=draw(_U64),
        duration_ns=draw(_U64),
    )
