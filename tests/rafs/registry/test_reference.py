"""Names of images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.registry.reference import InvalidReference, Reference, default_scheme, registry_host

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("ubuntu", "docker.io", "library/ubuntu", "latest", None),
        ("me/web:1.0", "docker.io", "me/web", "1.0", None),
        ("docker.io/ubuntu", "docker.io", "library/ubuntu", "latest", None),
        ("index.docker.io/library/ubuntu", "docker.io", "library/ubuntu", "latest", None),
        ("localhost/web", "localhost", "web", "latest", None),
        ("localhost:5000/web:v2", "localhost:5000", "web", "v2", None),
        ("reg.example/a/b-c__d/e.f:x_Y-1", "reg.example", "a/b-c__d/e.f", "x_Y-1", None),
        (f"reg.example/a@{DIGEST}", "reg.example", "a", None, DIGEST),
        (f"reg.example:443/a:t@{DIGEST}", "reg.example:443", "a", "t", DIGEST),
        ("[::1]:5000/a", "[::1]:5000", "a", "latest", None),
        ("a/b/c", "docker.io", "a/b/c", "latest", None),
    ],
)
def test_parts(text: str, host: str, repository: str, tag: str | None, digest: str | None) -> None:
    parsed = Reference.parse(text)
    assert parsed == Reference(host, repository, tag, digest)
    assert Reference.parse(str(parsed)) == parsed
    assert parsed.target == (digest or tag)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no name of a repository"),
        ("Ubuntu", "small letters only"),
        ("reg.example/", "no name of a repository"),
        ("reg.example/a:", "is no tag"),
        ("reg.example/a:" + "t" * 129, "is no tag"),
        ("reg.example/a@sha256:00", "is no digest"),
        ("reg.example/../a", "no name of a repository"),
        ("https://reg.example/a", "no host"),
        ("reg.example:port/a", "no host"),
        ("a" * 5000, "too long"),
        ("reg.example/a b", "no name of a repository"),
    ],
)
def test_what_is_none(text: str, reason: str) -> None:
    with pytest.raises(InvalidReference, match=reason):
        Reference.parse(text)


@given(st.text(max_size=80))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(parsed)) == parsed


def test_where_it_is() -> None:
    assert (
        Reference.parse("ubuntu").registry_host == registry_host("index.docker.io") == "registry-1.docker.io"
    )
    assert Reference.parse("reg.example/a").registry_host == "reg.example"
    local = ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.8.8", "[::1]:5000", "[::1]"]
    assert {default_scheme(host) for host in local} == {"http"}
    assert {default_scheme(host) for host in ("reg.example", "10.0.0.1:5000", "[fe80::1]:1")} == {"https"}
