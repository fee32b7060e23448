"""The trace file: what was packed comes back, and nothing else is ever taken for a trace."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from native.dataplane import MAX_TRACE_RECORDS, TRACE_HEADER, TRACE_MISSED
from rafs.trace.errors import TraceError
from rafs.trace.format import Access, Trace, pack_trace, parse_trace
from tests.rafs.trace.traces import BLOBS, trace_of, traces

SMALL = trace_of([(0, 5), (2, 1), (0, 6)])


@settings(max_examples=100, deadline=None)
@given(traces())
def test_what_was_packed_comes_back(trace: Trace) -> None:
    assert parse_trace(pack_trace(trace)) == trace


@settings(max_examples=300, deadline=None)
@given(traces(), st.data())
def test_no_damage_goes_unseen(trace: Trace, data: st.DataObject) -> None:
    packed = bytearray(pack_trace(trace))
    place = data.draw(st.integers(0, len(packed) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "add"])):
        case "flip":
            packed[place] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del packed[place:]
        case _:
            packed[place:place] = data.draw(st.binary(min_size=1, max_size=50))
    with pytest.raises(TraceError):
        parse_trace(bytes(packed))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(TraceError):
        parse_trace(content)


def forged(body: bytes, packed: bytes | None = None, **changes: int) -> bytes:
    """A file with a right checksum, whatever it says."""
    packed = zstandard.ZstdCompressor().compress(body) if packed is None else packed
    header = TRACE_HEADER.parse(pack_trace(SMALL))._asdict()
    fields = header | {"body_size": len(packed), "sha256": b"", **changes}
    digest = hashlib.sha256(TRACE_HEADER.pack(**fields) + packed).digest()
    return TRACE_HEADER.pack(**fields | {"sha256": digest}) + packed


def body_of(trace: Trace) -> bytes:
    return zstandard.ZstdDecompressor().decompress(pack_trace(trace)[TRACE_HEADER.size :])


def test_a_forged_trace_that_is_right_passes() -> None:
    assert parse_trace(forged(body_of(SMALL))) == SMALL


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "0 bytes are too few"),
        (forged(body_of(SMALL), magic=1), "magic number"),
        (forged(body_of(SMALL), version=2), "version 2; this program knows 1"),
        (forged(body_of(SMALL), record_count=MAX_TRACE_RECORDS + 1), "are too many"),
        (forged(body_of(SMALL), blob_count=1 << 31), "are too many"),
        (forged(body_of(SMALL), record_count=2), "unpacked, not"),
        (forged(body_of(SMALL), record_count=4), "unpacked, not"),
        (forged(body_of(SMALL), runs=0), "more runs than there are"),
        (forged(body_of(SMALL).replace(b"a", b"A")), "a blob that cannot be one"),
        (forged(body_of(SMALL), packed=b"no zstd"), "it is damaged"),
        (forged(body_of(replace(SMALL, accesses=SMALL.accesses[:1] * 3))), "a chunk twice"),
        (
            forged(
                body_of(replace(SMALL, accesses=(SMALL.accesses[0]._replace(blob_index=3),))), record_count=1
            ),
            "a blob that it does not name",
        ),
    ],
)
def test_the_error_says_what_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(TraceError, match=reason):
        parse_trace(content)


def test_a_small_file_does_not_unpack_to_a_large_one() -> None:
    """The counts bound it, not what the compressed data claims."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    with pytest.raises(TraceError, match="unpacked, not"):
        parse_trace(forged(bytes(64), packed=bomb))


def test_what_is_too_large_is_not_written() -> None:
    many = tuple(Access(0, 0, 0, 0, 0, chunk) for chunk in range(MAX_TRACE_RECORDS + 1))
    with pytest.raises(TraceError, match="too large"):
        pack_trace(replace(SMALL, accesses=many))


def test_it_is_compact() -> None:
    trace = trace_of([(0, chunk) for chunk in range(5000)])
    assert len(pack_trace(trace)) < 5000 * 12


def test_a_miss_is_told() -> None:
    assert SMALL.blobs == BLOBS
    assert not SMALL.accesses[0].missed
    assert SMALL.accesses[0]._replace(flags=TRACE_MISSED).missed
