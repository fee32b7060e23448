"""The table says what Linux does: on the host's own file system every case answers as it is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.posix import suite


def test_all_cases_on_the_host(tmp_path: Path) -> None:
    program = suite.build(tmp_path)
    (tmp_path / "cases").mkdir()
    answers = suite.run(program, tmp_path / "cases")
    assert suite.wrong(answers) == []
    assert len(answers) > suite.CASES


def test_lines_are_read_and_compared() -> None:
    one = suite.parse("a.b ok EPERM stat=EPERM\nc bad 0 ls=[x:f],wanted=[y:f]\n")
    assert suite.wrong(one) == ["c bad 0 ls=[x:f],wanted=[y:f]"]
    other = suite.parse("a.b ok 0 stat=EPERM\nd died 0 SIGSEGV\n")
    assert list(suite.differences(one, other)) == ["a.b", "c", "d"]
    assert suite.differences(one, one) == {}


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="came twice"):
        suite.parse("a ok 0 -\na ok 0 -\n")
