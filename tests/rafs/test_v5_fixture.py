"""RAFS v5 as upstream's builder wrote it, read by ours: the tree, every byte, and through the chunk cache.

The expected tree and the MD5 of each file come with the fixture; they were not made by any code of ours.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from native.dataplane import ChunkStore
from rafs.backend import LocalBackend
from rafs.blob_store import BlobStore
from rafs.fetch import FetchResources
from rafs.image import Image
from rafs.upcalls import Upcalls
from tests.fakes.blob_store import joined


@pytest.fixture
def folder(fixtures_dir: Path) -> Path:
    return fixtures_dir / "rafs-v5-lz4"


def expected(folder: Path) -> tuple[dict[bytes, Any], dict[bytes, str]]:
    """(path -> entry of `tree -J`, path -> MD5) as expected.txt has them."""
    text = (folder / "expected.txt").read_text()
    listing, end = json.JSONDecoder().raw_decode(text)
    found: dict[bytes, Any] = {}

    def add(entry: Any, path: bytes) -> None:
        found[path or b"/"] = entry
        for child in entry.get("contents", []):
            add(child, path + b"/" + child["name"].encode())

    add(listing[0], b"")
    sums = [line.split("  ", 1) for line in text[end:].split("\n") if line]
    return found, {path.encode(): md5 for md5, path in sums}


def test_the_tree(folder: Path) -> None:
    entries, _ = expected(folder)
    kinds = {"directory": stat.S_IFDIR, "file": stat.S_IFREG, "link": stat.S_IFLNK}
    image = Image(folder / "image.boot")
    walked = dict(image.walk())
    assert image.version == 5
    assert list(walked) == sorted(entries, key=lambda path: path.split(b"/"))
    for path, inode in walked.items():
        assert stat.S_IFMT(inode.mode) == kinds[entries[path]["type"]], path
        assert image.resolve(path) == inode.nid
        if stat.S_ISLNK(inode.mode):
            assert image.readlink(inode.nid).decode() == entries[path]["target"]
        elif stat.S_ISDIR(inode.mode):
            assert image.resolve(path + b"/.") == image.resolve(path + b"/./.") == inode.nid
            for child in image.readdir(inode.nid):
                if child.name == b"..":
                    assert child.nid == image.lookup(inode.nid, b"..")
    names = [path for path in walked if walked[path].nid == walked[b"/hardlink-test/foo"].nid]
    assert names == [b"/hardlink-test/foo", b"/hardlink-test/test.sh", b"/normal-file-test/test.sh"]
    assert walked[names[0]].nlink == len(names)
    with pytest.raises(FileNotFoundError):
        image.resolve(b"/hardlink-test/fo")
    with pytest.raises(NotADirectoryError):
        image.resolve(b"/hardlink-test/foo/x")
    image.close()


async def test_every_byte_through_the_cache(folder: Path, tmp_path: Path) -> None:
    _, sums = expected(folder)
    image, chunks, backend = Image(folder / "image.boot"), ChunkStore(), LocalBackend(folder)
    upcalls, resources = Upcalls(chunks), FetchResources()
    upcalls.start()
    store = BlobStore(joined(tmp_path), backend, upcalls, resources)
    blob = await store.open_blob(image.blob(0), digests=image.bootstrap_chunks(0))
    await store.fill(blob)
    statistics = store.statistics()
    assert (statistics["verified_chunks"], statistics["unverified_chunks"]) == (23, 0)
    data = (tmp_path / f"{blob.blob_id}.blob.data").read_bytes()
    assert len(data) == 3508766
    for path, md5 in sums.items():
        inode = image.inode(image.resolve(path))
        content = b"".join(
            data[e.blob_offset + e.offset_in_chunk :][: e.length]
            for e in image.extents(inode.nid, 0, inode.size)
        )
        assert (len(content), hashlib.md5(content).hexdigest()) == (inode.size, md5), path
    upcalls.stop()
    await store.close()
    resources.close()
    await backend.close()
    image.close()
    chunks.close()
