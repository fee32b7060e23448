"""`inspect` says what was built."""

from __future__ import annotations

import stat

from rafs.tools.inspect import chunks_of_blob, inspect_image, inspect_path
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
