"""Whatever is done to an archive, it is built or refused with a sentence; nothing else comes out."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rafs.build import BuildError, BuildOptions, TarSource, Whiteouts, build_image
from tests import tars
from tests.tars import Member

MEMBERS = [
    tars.directory("d", 0o700, mtime_ns=1_700_000_000_123_456_789),
    Member("d/" + "long" * 40, b"x" * 5000, xattrs={"user.a": b"\xff\0=\n"}),
    tars.hard_link("link", "d/" + "long" * 40),
    tars.symlink("s" * 120, "t" * 150),
    Member("sparse", b"ab", pax={"GNU.sparse.map": "0,1,9000,1", "GNU.sparse.size": "9001"}),
    Member("null", type=tarfile.CHRTYPE, device=(1, 3)),
    Member(".wh.gone"),
]
#: each header and what stands in it is within reach of a mutation
ARCHIVES = [tars.archive(MEMBERS, kind) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
PACKED = [*ARCHIVES, gzip.compress(ARCHIVES[0], mtime=0), zstandard.compress(ARCHIVES[1])]
#: fields of a header that decide where the next one is looked for, and what this one is
FIELDS = [
    (0, 100),
    (100, 8),
    (108, 8),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (257, 8),
    (329, 16),
    (386, 96),
]


VALUES = [b"\xff" * 100, bytes(100), b"7" * 100, b"-1", b"../../x", b"\x80" + b"\xff" * 11]
fields = st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES), st.booleans())
#: (kind, where as a part of the archive, and what the kind wants)
steps = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.none()),
    st.tuples(st.just("field"), st.floats(0, 1), fields),
    st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(1, 20)),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(max_size=600)),
)


def mutate(content: bytearray, kind: str, where: float, what: Any) -> None:
    at = int(where * len(content))
    block = at // 512 * 512
    if kind == "cut":
        del content[at:]
    elif kind == "flip":
        content[at : at + 1] = bytes([what])
    elif kind == "repeat":
        content[block:block] = content[block : block + 512] * what
    elif kind == "insert":
        content[at:at] = what
    elif len(content) >= block + 512:
        (offset, size), value, is_summed = what
        content[block + offset : block + offset + len(value[:size])] = value[:size]
        if is_summed:  # a header that is valid again
            content[block + 148 : block + 156] = b" " * 8
            content[block + 148 : block + 156] = b"%06o\0 " % sum(content[block : block + 512])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    number=st.integers(0, len(PACKED) - 1),
    mutations=st.lists(steps, min_size=1, max_size=4),
    spec=st.sampled_from(Whiteouts),
)
def test_mutated_archives(number: int, mutations: list[tuple[str, float, Any]], spec: Whiteouts) -> None:
    content = bytearray(PACKED[number])
    for kind, where, what in mutations:
        mutate(content, kind, where, what)
    with tempfile.TemporaryDirectory(prefix="vhostfs-mutated-") as scratch:
        out = Path(scratch)
        options = BuildOptions(chunk_size=4096, jobs=1, whiteouts=spec)
        try:
            build_image(TarSource(io.BytesIO(content), "the archive"), out / "b", out / "blobs", options)
        except BuildError as error:
            assert str(error)
            assert not (out / "b").exists()
