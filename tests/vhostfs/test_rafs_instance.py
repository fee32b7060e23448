"""Images that are mounted: what of a configuration is served, and where their blobs and digests come from."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rafs.blob_record import BlobRecord
from rafs.image import Image
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.session import session
from vhostfs.mounts import MountError, MountRequest
from vhostfs.nydusd.errors import ConfigError


async def test_a_chunk_table_is_read_only_where_it_is_needed(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes time and memory, and a blob that vouches for its chunks itself has no use for it."""
    monkeypatch.delattr(Image, "chunk_digests")
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/a", s.request())
        assert await s.read("/a/big") == (image.source / "big").read_bytes()
        first = s.mounts.at("/a").instance
        assert first is not None and s.agent().store.statistics()["unverified_chunks"] == 0
        monkeypatch.setattr(BlobRecord, "has_vouched_digests", False)
        with pytest.raises(AttributeError):
            await s.mounts.mount("/b", s.request())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backend": None}, "has no back-end"),
        ({"cache": None}, "cache type none"),
        ({"cache": {"type": ""}}, "cache type none"),
        ({"cache": {"type": "fscache", "fscache": {}}}, "cache type 'fscache'"),
        ({"cache": {"type": "blobcache", "filecache": {"enable_encryption": True}}}, "encrypted cache"),
        ({"overlay": {"upper_dir": "/u", "work_dir": "/w"}}, "overlay"),
        (
            {"backend": {"type": "http-proxy", "http-proxy": {"addr": "relative"}}},
            r"^http-proxy.addr: it must be a URL",
        ),
    ],
)
async def test_what_is_not_served_says_so(
    image: BuiltImage, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    config = {
        "version": 2,
        "backend": {"type": "localfs", "localfs": {"dir": str(image.blob_dir)}},
        "cache": {"type": "blobcache", "filecache": {"work_dir": str(tmp_path / "cache")}},
    }
    async with session(tmp_path, image) as s:
        text = json.dumps(config | changes)
        with pytest.raises((ConfigError, MountError), match=reason):
            await s.mounts.mount("/a", MountRequest(fs_type="rafs", source=str(image.bootstrap), config=text))
        assert list(s.mounts) == []


async def test_blobs_in_several_places(image: BuiltImage, tmp_path: Path) -> None:
    [blob] = image.blob_dir.iterdir()
    (tmp_path / "empty").mkdir()
    for section in (
        {"dir": str(tmp_path / "empty"), "alt_dirs": ["/nonexistent", str(image.blob_dir)]},
        {"blob_file": str(blob)},
    ):
        config = json.dumps(
            {
                "version": 2,
                "backend": {"type": "localfs", "localfs": section},
                "cache": {"type": "filecache", "filecache": {"work_dir": str(tmp_path / "cache")}},
            }
        )
        async with session(tmp_path, image) as s:
            await s.mounts.mount(
                "/a", MountRequest(fs_type="rafs", source=str(image.bootstrap), config=config)
            )
            assert await s.read("/a/dir/file3") == b"content 3\n"
        shutil.rmtree(tmp_path / "cache")


async def test_a_v5_image_of_upstream(fixtures_dir: Path, tmp_path: Path) -> None:
    folder = fixtures_dir / "rafs-v5-lz4"
    said = (folder / "expected.txt").read_text()
    async with session(tmp_path, BuiltImage(folder, folder / "image.boot", folder)) as s:
        await s.mounts.mount("/a", s.request())
        for path in (
            "/hardlink-test/foo",
            "/hardlink-test/test.sh",
            "/normal-file-test/holefiles/head-hole-2",
        ):
            digest = hashlib.md5(await s.read(f"/a{path}")).hexdigest()
            assert f"{digest}  {path}\n" in said
        fetched = s.agent().store.statistics()
        assert fetched["fetched_chunks"] == 3 and fetched["unverified_chunks"] == 0
