"""Answers and their heads: what fits a request for a range, and what a refusal means."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from rafs.backend.body import ByteRange, check_range_answer
from rafs.backend.http import HttpFailure, parse_retry_after

ASKED = ByteRange(10, 5)


def answer(status: int, length: int | None = 5, **headers: str) -> Any:
    given = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return SimpleNamespace(status=status, content_length=length, headers=given)


def test_what_fits() -> None:
    assert ASKED.header == "bytes=10-14"
    assert check_range_answer(answer(206, Content_Range="bytes 10-14/99"), ASKED, "h") == 99
    assert check_range_answer(answer(206, Content_Range=" bytes 10-14/* "), ASKED, "h") is None
    assert check_range_answer(answer(206, None, Content_Range="bytes 10-14/99"), ASKED, "h") == 99
    assert check_range_answer(answer(200, 5), ByteRange(0, 5), "h") == 5  # the whole was asked for
    said = answer(
        206, Content_Range="bytes 10-14/9", Content_Encoding="identity", Content_Type="a/b; text/html"
    )
    assert check_range_answer(said, ASKED, "h") == 9


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (answer(200, 99), "200 instead of 206"),
        (answer(200, None), "200 instead of 206"),
        (answer(206), "answers with no Content-Range to a request for 10-14"),
        (answer(206, Content_Range="bytes 0-4/99"), "Content-Range 'bytes 0-4/99'"),
        (answer(206, Content_Range="bytes 10-15/99"), "Content-Range"),
        (answer(206, Content_Range="bytes */99"), "Content-Range"),
        (answer(206, Content_Range="x" * 5000), "Content-Range"),
        (answer(206, 6, Content_Range="bytes 10-14/99"), "announces 6 bytes where 5"),
        (answer(206, Content_Range="bytes 10-14/99", Content_Type="Text/HTML; charset=x"), "a web page"),
        (answer(206, Content_Range="bytes 10-14/99", Content_Encoding="gzip"), "encodes the body"),
        (answer(206, Content_Type="multipart/byteranges; boundary=x"), "no Content-Range"),
    ],
)
def test_what_does_not(given: Any, words: str) -> None:
    with pytest.raises(HttpFailure, match=words) as info:
        check_range_answer(given, ASKED, "reg:5000")
    assert info.value.kind == "corrupt" and info.value.again
    assert str(info.value).startswith("reg:5000: ") and len(str(info.value)) < 300


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("99999999999999999999", float(1 << 31)),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("soon", None),
        ("-3", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=60.0) == seconds


@given(st.text(max_size=40) | st.dates().map(lambda date: f"{date:%a, %d %b %Y} 00:00:00 GMT"))
def test_any_retry_after_is_a_pause_or_none(value: str) -> None:
    seconds = parse_retry_after(value)
    assert seconds is None or seconds >= 0
