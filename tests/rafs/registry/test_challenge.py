"""WWW-Authenticate, as registries write it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rafs.registry.challenge import Challenge, parse_challenges


def test_what_registries_send() -> None:
    (hub,) = parse_challenges(
        [
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
        ]
    )
    assert hub.scheme == "bearer"
    assert hub.get("realm") == "https://auth.docker.io/token"
    assert hub.get("scope") == "repository:a/b:pull,push"
    assert hub.get("error") == ""


def test_several_in_one_header_and_in_two() -> None:
    text = r'Basic realm="a \"quoted\", one", Bearer realm=https://x/y , service=z'
    expected = [
        Challenge("basic", {"realm": 'a "quoted", one'}),
        Challenge("bearer", {"realm": "https://x/y", "service": "z"}),
    ]
    assert parse_challenges([text]) == expected
    assert (
        parse_challenges(['Basic realm="a \\"quoted\\", one"', "Bearer realm=https://x/y,service=z"])
        == expected
    )


def test_names_have_no_case_and_the_first_counts() -> None:
    (challenge,) = parse_challenges(['BEARER Realm="a",REALM="b"'])
    assert challenge == Challenge("bearer", {"realm": "a"})
    assert parse_challenges(["Negotiate", 'realm="lost"']) == [Challenge("negotiate")]


@given(st.lists(st.text(alphabet='Bearer ="\\,ab', max_size=60), max_size=3))
def test_garbage_does_no_harm(headers: list[str]) -> None:
    parse_challenges(headers)
