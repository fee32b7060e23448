"""`inspect` says what was built."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

import rafs
from rafs.build import BuildOptions, build_image
from rafs.errors import RafsError
from rafs.tools.check import check_image
from rafs.tools.diff import diff_images
from rafs.tools.inspect import chunks_of_blob, inspect_image, inspect_path
from rafs.tools.unpack_tar import unpack_tar
from tests.rafs.tools.conftest import Built
from tests.trees import describe


def test_an_image_as_a_whole(built: Built) -> None:
    tree = describe(built.source)
    with built.open() as image:
        facts = inspect_image(image.image)
    (blob,) = built.blobs.iterdir()
    assert (facts.version, facts.chunk_size, facts.names) == (6, 64 << 10, len(tree))
    assert facts.bootstrap_size == built.bootstrap.stat().st_size
    inodes = {entry.link_of: entry for entry in tree.values()}
    assert facts.inodes == len(inodes) and facts.hard_links == len(tree) - len(inodes)
    assert facts.kinds["fifos"] == sum(stat.S_ISFIFO(entry.mode) for entry in inodes.values())
    assert facts.data_size == sum(entry.size for entry in inodes.values() if stat.S_ISREG(entry.mode))
    assert {"compress lz4_block", "digest blake3", "has xattrs"} <= set(facts.flags)
    (found,) = facts.blobs
    assert (found.blob_id, found.compressed_size) == (blob.name, blob.stat().st_size)
    assert found.used_chunks == found.chunk_count
    assert {"aligned", "has_toc"} <= set(found.features)


def test_a_path(built: Built) -> None:
    with built.open() as image:
        facts = inspect_path(image, "/sizes/random-131073")
        assert (facts.kind, facts.size, [chunk.file_offset for chunk in facts.chunks]) == (
            "files",
            131073,
            [0, 65536, 131072],
        )
        stored = {chunk.index: chunk for chunk in chunks_of_blob(image, 0)}
        for chunk in facts.chunks:
            assert stored[chunk.chunk_index].digest == chunk.digest != ""
            assert stored[chunk.chunk_index].compressed_offset == chunk.compressed_offset
        link = inspect_path(image, "/symlinks/short")
        assert (
            link.target == str((built.source / "symlinks" / "short").readlink()) and link.kind == "symlinks"
        )
        all_of_it = inspect_path(image, "/xattrs/all")
        assert all_of_it.xattrs["user.empty"] == "" and len(all_of_it.xattrs) >= 7
        assert inspect_path(image, "/crowd").children == 2001


def test_upstream_v5_without_its_blobs(upstream: Built) -> None:
    bare = Built(upstream.source, upstream.bootstrap, upstream.source / "nowhere")
    with bare.open() as image:
        facts = inspect_image(image.image)
        assert (facts.version, facts.names, facts.inodes, facts.hard_links) == (5, 54, 52, 2)
        assert len(list(chunks_of_blob(image, 0))) == facts.blobs[0].used_chunks == 23
        assert len(inspect_path(image, "/normal-file-test/holefiles/head-hole-1").chunks) == 3


def test_an_image_whose_files_share_a_list_of_chunks(tmp_path: Path) -> None:
    """Each file says that it has the many chunks of all others: nobody looks at all of them."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(2000):
        (source / f"{number:04}").write_bytes(b"x")
    (source / "large").write_bytes(bytes(4096 * 2000))
    build_image(source, tmp_path / "boot", tmp_path / "blobs", BuildOptions(chunk_size=4096))
    content = bytearray((tmp_path / "boot").read_bytes())
    with rafs.open(tmp_path / "boot", tmp_path / "blobs") as image:
        for number in range(2000):
            at = image.image.inode_offset(image.find(f"/{number:04}"))
            content[at + 8 : at + 16] = (4096 * 2000).to_bytes(8, "little")
    (tmp_path / "lying").write_bytes(content)
    with rafs.open(tmp_path / "lying", tmp_path / "blobs") as image:
        for tool in (
            lambda: inspect_image(image.image),
            lambda: unpack_tar(image, io.BytesIO()),
            lambda: diff_images(image.image, image.image),
        ):
            with pytest.raises((OSError, RafsError)):
                tool()
        assert not check_image(image, data=False).is_sound
