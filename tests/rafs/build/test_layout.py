"""Placement: whatever is asked for, ranges are aligned, apart, and inside one block if they fit one."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rafs.build.layout import MetadataAllocator

BLOCK = 4096


@given(
    st.lists(
        st.one_of(
            st.integers(64, 300).map(lambda size: ("take", size)),
            st.integers(64, 3 * BLOCK).map(lambda size: ("take", size)),
            st.integers(1, 3).map(lambda count: ("blocks", count)),
        ),
        max_size=200,
    )
)
def test_ranges_keep_their_promises(requests: list[tuple[str, int]]) -> None:
    allocator = MetadataAllocator(BLOCK)
    taken: list[tuple[int, int]] = []
    for kind, amount in requests:
        if kind == "blocks":
            start, size = allocator.take_blocks(amount), amount * BLOCK
            assert start % BLOCK == 0
        else:
            start, size = allocator.take(amount), amount
            assert start % 32 == 0
            if size <= BLOCK:
                assert start // BLOCK == (start + size - 1) // BLOCK
            else:
                assert start % BLOCK <= BLOCK - 64  # at least the inode itself does not cross
        taken.append((start, start + size))
    taken.sort()
    assert all(start >= BLOCK for start, _ in taken)
    assert all(end <= start for (_, end), (start, _) in pairwise(taken))
    assert all(end <= allocator.end for _, end in taken)


def test_remainders_are_used_again() -> None:
    allocator = MetadataAllocator(BLOCK)
    assert allocator.take(4000) == BLOCK
    assert allocator.take(4096) == 2 * BLOCK  # leaves 96 bytes in the first block
    assert allocator.take(128) == 3 * BLOCK  # too large for them
    assert allocator.take(64) == BLOCK + 4000
    assert allocator.take(32) == BLOCK + 4064
    assert allocator.take(32) == 3 * BLOCK + 128


def test_smallest_remainder_that_fits_is_used() -> None:
    allocator = MetadataAllocator(BLOCK)
    allocator.take(3840)
    allocator.take(3968)  # leaves 256
    allocator.take(4096)  # leaves 128
    assert allocator.take(100) == 2 * BLOCK + 3968
    assert allocator.take(100) == BLOCK + 3840
