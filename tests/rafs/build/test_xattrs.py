"""The attribute area, parsed again the way a reader does."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.build import BuildError
from rafs.build.xattrs import icount, pack_xattrs, split_name

PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
NAMES = st.one_of(
    st.sampled_from([PREFIXES[2], PREFIXES[3]]),
    st.builds(
        lambda prefix, suffix: PREFIXES[prefix] + suffix,
        st.sampled_from([1, 4, 6]),
        st.binary(min_size=1, max_size=240),
    ),
)


def parse(area: bytes) -> list[tuple[bytes, bytes]]:
    """Format section 2.11."""
    assert area[:12] == bytes(12)
    found = []
    at = 12
    while at < len(area):
        name_size, index, value_size = struct.unpack_from("<BBH", area, at)
        name_end = at + 4 + name_size
        found.append((PREFIXES[index] + area[at + 4 : name_end], area[name_end : name_end + value_size]))
        at += -(-(4 + name_size + value_size) // 4) * 4
    assert at == len(area)
    return found


@given(st.dictionaries(NAMES, st.binary(max_size=500), min_size=1, max_size=20))
def test_readers_find_the_attributes(xattrs: dict[bytes, bytes]) -> None:
    area = pack_xattrs(xattrs, b"file")
    assert parse(area) == sorted(xattrs.items())
    assert 12 + 4 * (icount(area) - 1) == len(area)


def test_no_attributes_take_no_space() -> None:
    assert pack_xattrs({}, b"file") == b""
    assert icount(b"") == 0


def test_prefixes() -> None:
    assert split_name(b"user.a") == (1, b"a")
    assert split_name(b"system.posix_acl_access") == (2, b"")
    assert split_name(b"system.posix_acl_default") == (3, b"")
    assert split_name(b"trusted.a") == (4, b"a")
    assert split_name(b"security.capability") == (6, b"capability")
    for foreign in (b"system.posix_acl_access.x", b"system.nfs4_acl", b"users.a", b"btrfs.compression"):
        assert split_name(foreign) is None


@pytest.mark.parametrize(
    ("xattrs", "complaint"),
    [
        ({b"system.other": b""}, "'/a/file': attribute 'system.other' does not fit RAFS"),
        ({b"user." + b"n" * 251: b""}, "'/a/file': attribute 'user.n+' does not fit RAFS"),
        ({b"user.a": bytes(65536)}, "'/a/file': attribute 'user.a' does not fit RAFS"),
        ({b"user.%d" % n: bytes(65000) for n in range(5)}, "'/a/file': its attributes take 325"),
    ],
)
def test_what_does_not_fit_is_named(xattrs: dict[bytes, bytes], complaint: str) -> None:
    with pytest.raises(BuildError, match=complaint):
        pack_xattrs(xattrs, b"/a/file")
