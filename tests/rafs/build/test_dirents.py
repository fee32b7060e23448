"""Directory blocks, parsed again the way a reader does."""

from __future__ import annotations

import stat
import struct

from hypothesis import given
from hypothesis import strategies as st

from rafs.build.dirents import directory_size, pack_directory

BLOCK = 4096
NAMES = st.sets(
    st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_"))
)


def parse(data: bytes) -> list[tuple[bytes, int, int]]:
    """Format section 2.9: each block starts with its dirents, names run to the next name or to NUL."""
    found = []
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        count = struct.unpack_from("<H", block, 8)[0] // 12
        dirents = [struct.unpack_from("<QHBB", block, 12 * index) for index in range(count)]
        ends = [nameoff for _, nameoff, _, _ in dirents[1:]] + [len(block)]
        for (nid, nameoff, kind, reserved), end in zip(dirents, ends, strict=True):
            assert reserved == 0
            found.append((block[nameoff:end].rstrip(b"\0"), nid, kind))
    return found


@given(NAMES, st.integers(0, 400))
def test_readers_find_the_entries(names: set[bytes], fillers: int) -> None:
    names = names | {b".", b".."} | {b"filler %d" % number for number in range(fillers)}
    entries = [(name, 128 + number, stat.S_IFREG) for number, name in enumerate(sorted(names))]
    data = pack_directory(entries)
    assert len(data) == directory_size([name for name, _, _ in entries])
    assert parse(data) == [(name, nid, 1) for name, nid, _ in entries]


def test_file_types() -> None:
    kinds = [
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFLNK,
    ]
    entries = [(b"%d" % number, 200, kind | 0o644) for number, kind in enumerate(kinds)]
    assert [kind for _, _, kind in parse(pack_directory(entries))] == [1, 2, 3, 4, 5, 6, 7]


def test_block_filled_to_its_last_byte() -> None:
    """16 entries of 12 + 244 bytes are one block; there is no empty block after it."""
    names = [b"%02d" % number + b"n" * 242 for number in range(16)]
    assert directory_size(names) == BLOCK
    assert directory_size([*names, b"z"]) == BLOCK + 13
    assert parse(pack_directory([(name, 128, stat.S_IFREG) for name in names])) == [
        (name, 128, 1) for name in names
    ]
