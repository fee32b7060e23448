"""Work in order: results come as the work went in, never more than a window of it under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import pytest

from rafs.build.chunker import UNIT_FILES, UNIT_SIZE, map_in_order, units
from rafs.build.tree import Inode


def inode(ino: int, size: int, mode: int = 0o100644) -> Inode:
    return Inode(b"%d" % ino, ino, mode, 0, 0, size, 0, 0, (0, 0, 0, 0, 0))


def test_results_come_in_order_whichever_finishes_first() -> None:
    """Item 0 cannot end before item 1 has."""
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_done.wait(60)
        if item == 1:
            second_done.set()
        return item * item

    assert list(map_in_order(work, range(50), jobs=2)) == [(item, item * item) for item in range(50)]


def test_no_more_than_a_window_is_taken_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = map_in_order(str, items(), jobs=3)
    assert list(islice(results, 10)) == [(item, str(item)) for item in range(10)]
    assert len(taken) <= 10 + 2 * 3 + 2
    results.close()  # type: ignore[attr-defined]


def test_error_comes_at_its_turn_and_ends_the_work() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 5:
            raise ValueError("five")
        return item

    results = map_in_order(work, range(1000), jobs=2)
    assert [result for _, result in islice(results, 5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert max(begun) < 20


@pytest.mark.parametrize("chunk_size", [4096, 16 << 20])
def test_units_cover_every_file_once_in_order(chunk_size: int) -> None:
    sizes = [0, 1, 4096, 3 << 20, 40 << 20, *[100] * 200, UNIT_SIZE, 5]
    inodes = [inode(ino, size) for ino, size in enumerate(sizes)]
    inodes.insert(3, inode(99, 7000, mode=0o120777))  # a symlink has no chunks
    found = list(units(inodes, chunk_size))
    pieces = [piece for unit in found for piece in unit]
    step = max(chunk_size, UNIT_SIZE)
    expected = [
        (ino, offset, min(offset + step, size))
        for ino, size in enumerate(sizes)
        for offset in range(0, size, step)
    ]
    assert [(piece.inode.ino, piece.offset, piece.end) for piece in pieces] == expected
    for unit in found:
        assert len(unit) <= UNIT_FILES
        assert sum(piece.end - piece.offset for piece in unit[:-1]) < step
