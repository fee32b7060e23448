"""The ledger: sums that outlive a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from rafs.cache_dir import CacheDir
from rafs.errors import CacheError
from rafs.ledger import LEDGER_NAME, Ledger, read_ledger


def test_sums_go_on_from_process_to_process(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == {}
    ledger = Ledger(tmp_path)
    ledger.note({"evicted_chunks": 3})
    ledger.note({"evicted_chunks": 5, "healed_chunks": 1})
    assert read_ledger(tmp_path) == {"evicted_chunks": 5, "healed_chunks": 1}
    again = Ledger(tmp_path)
    again.note({"evicted_chunks": 2})
    assert read_ledger(tmp_path) == {"evicted_chunks": 7, "healed_chunks": 1}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "b", "c": [1]}'])
def test_what_makes_no_sense_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / LEDGER_NAME).write_text(content)
    assert read_ledger(tmp_path) == {}


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / LEDGER_NAME).mkdir()
    with pytest.raises(CacheError, match=LEDGER_NAME):
        read_ledger(tmp_path)


def test_the_owner_keeps_it(tmp_path: Path) -> None:
    directory = CacheDir(tmp_path)
    directory.join(owner=True)
    directory.governor.add("healed_chunks", 2)
    directory.leave()
    assert read_ledger(tmp_path) == {"healed_chunks": 2}
    other = CacheDir(tmp_path)
    other.join()
    other.governor.add("healed_chunks", 2)
    other.leave()
    assert read_ledger(tmp_path) == {"healed_chunks": 2}
