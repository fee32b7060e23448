"""Bootstraps that lie about where data is: a READY bit vouches for one chunk, not for another's bytes."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from native.dataplane import Image
from tests.native.conftest import BIG_CHUNK
from tests.native.rig import BuiltImage, Rig

INDEX = struct.Struct("<HBBI")  # chunk index (low), device id, chunk index (high), block address


def changed(plain: BuiltImage, folder: Path, change: Callable[[list[list[int]]], None]) -> BuiltImage:
    """`plain` with the chunk indexes of /big changed."""
    bootstrap = bytearray(plain.bootstrap.read_bytes())
    image = Image(plain.bootstrap)
    extents = list(image.extents(image.lookup(image.root_nid, b"big"), 0, BIG_CHUNK * 48))
    image.close()
    indexes = [[e.chunk_index, e.blob_index + 1, 0, e.blob_offset // 4096] for e in extents]
    at = bytes(bootstrap).index(b"".join(INDEX.pack(*index) for index in indexes))
    change(indexes)
    bootstrap[at : at + INDEX.size * len(indexes)] = b"".join(INDEX.pack(*index) for index in indexes)
    lying = folder / "bootstrap"
    lying.write_bytes(bootstrap)
    return BuiltImage(plain.source, lying, plain.blob_dir)


def another_chunk(indexes: list[list[int]]) -> None:
    indexes[0][0] = indexes[1][0]


def another_place(indexes: list[list[int]]) -> None:
    indexes[0][3] = indexes[1][3]


def inside_a_chunk(indexes: list[list[int]]) -> None:
    indexes[0][3] += 1


def behind_the_blob(indexes: list[list[int]]) -> None:
    indexes[0][3] = 0xFFFF_FFFE


def no_such_chunk(indexes: list[list[int]]) -> None:
    indexes[0][0] = 60_000


def no_such_blob(indexes: list[list[int]]) -> None:
    indexes[0][1] = 2


def the_bootstrap_as_blob(indexes: list[list[int]]) -> None:
    indexes[0][1] = 0


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        another_chunk,
        another_place,
        inside_a_chunk,
        behind_the_blob,
        no_such_chunk,
        no_such_blob,
        the_bootstrap_as_blob,
    ],
)
def test_an_index_that_does_not_fit_its_chunk(
    plain: BuiltImage, big: bytes, tmp_path: Path, change: Callable[[list[list[int]]], None], warm: bool
) -> None:
    with Rig(changed(plain, tmp_path, change), warm=warm) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        for offset, size in ((0, 100), (100, 2 * BIG_CHUNK), (BIG_CHUNK - 1, 1)):
            with pytest.raises(OSError) as caught:
                client.read(nodeid, offset, size)
            assert caught.value.errno == errno.EUCLEAN
        rig.cache.fill()
        assert client.read(nodeid, BIG_CHUNK, 100) == big[BIG_CHUNK:][:100]  # the rest is in order
        counted = rig.device.statistics()
        assert counted["requests"] == counted["replies"]


def test_indexes_may_share_chunks_and_be_holes(plain: BuiltImage, big: bytes, tmp_path: Path) -> None:
    def repeat(indexes: list[list[int]]) -> None:
        indexes[1] = list(indexes[0])
        indexes[2] = [0, 0, 0, 0xFFFF_FFFF]

    with Rig(changed(plain, tmp_path, repeat)) as rig:
        client = rig.client()
        nodeid = client.lookup(1, b"big").nodeid
        first = big[:BIG_CHUNK]
        expected = first + first + bytes(BIG_CHUNK) + big[3 * BIG_CHUNK :]
        assert client.read_file(nodeid, len(big), piece=1 << 20) == expected
