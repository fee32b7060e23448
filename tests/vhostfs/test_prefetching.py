"""Prefetch of a mounted image: what the configuration asks for happens in the background, and is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.precision import SLACK
from tests.vhostfs.conftest import BuiltImage, GatedBackend
from tests.vhostfs.session import Session, session
from tests.vhostfs.test_daemon import serving
from vhostfs.agent import server
from vhostfs.api import metrics
from vhostfs.mounts import MountRequest
from vhostfs.nydusd.config_parse import parse_config
from vhostfs.prefetching import options_of, read_file_list

CHUNKS = 37  # of the image: 17 of /big, and 20 small files


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def request(image: BuiltImage, where: Path, prefetch: dict[str, Any], *files: str) -> MountRequest:
    config = {
        "version": 2,
        "id": "x",
        "backend": {"type": "localfs", "localfs": {"dir": str(image.blob_dir)}},
        "cache": {"type": "blobcache", "filecache": {"work_dir": str(where / "cache")}},
        "rafs": {"prefetch": prefetch},
    }
    return MountRequest(
        fs_type="rafs", source=str(image.bootstrap), config=json.dumps(config), prefetch_files=files
    )


async def figures(s: Session) -> dict[str, Any]:
    instance = s.mounts.at("/a").instance
    assert instance is not None
    return metrics.blob_cache(instance, await instance.figures())


async def until_prefetched(s: Session) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while not (told := await figures(s))["prefetch_end_time_secs"]:
            await asyncio.sleep(0.005)
    return told


async def test_all_of_an_image_while_a_guest_reads(image: BuiltImage, tmp_path: Path) -> None:
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/a", s.request(prefetch=True))
        assert await s.read("/a/big") == (image.source / "big").read_bytes()
        told = await until_prefetched(s)
        assert told["data_all_ready"] and told["entries_count"] == CHUNKS
        assert told["prefetch_begin_time_secs"] > 1_600_000_000 and told["prefetch_workers"] == 0
        fetched = s.agent().store.statistics()
        assert fetched["fetched_chunks"] == CHUNKS and fetched["failed_chunks"] == 0
        await s.mounts.umount("/a")


async def test_only_the_files_that_a_mount_names(image: BuiltImage, tmp_path: Path) -> None:
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/a", request(image, tmp_path, {"enable": True}, "/dir/file3", "/dir/file7"))
        told = await until_prefetched(s)
        assert told["entries_count"] == 2 and not told["data_all_ready"]
        assert told["prefetch_data_amount"] > 0 and told["prefetch_requests_count"] > 0
        await s.mounts.mount("/b", request(image, tmp_path, {"enable": False}, "/big"))
        assert (await figures(s))["entries_count"] == 2


async def test_a_mount_waits_for_nothing(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its end, while the back-end hangs."""
    backend = GatedBackend(image.blob_dir)
    monkeypatch.setattr(server, "make_backend", lambda *_: backend)
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/a", request(image, tmp_path, {"enable": True, "prefetch_all": True}))
        await until(lambda: backend.waiting > 0)
        assert (await figures(s))["prefetch_workers"] == 8
        async with asyncio.timeout(5):
            await s.mounts.umount("/a")
        assert list(s.mounts) == []


async def test_serve_prefetches_too(image: BuiltImage, tmp_path: Path) -> None:
    options = image.options(tmp_path, prefetch=PrefetchOptions(files=("/dir",)))
    async with serving(options) as daemon:
        async with asyncio.timeout(20):
            while not (told := await daemon.statistics())["prefetch_ended_at"]:
                await asyncio.sleep(0.005)
        assert told["prefetch_chunks"] == told["fetch_fetched_chunks"] == 20


def asked(rafs: Any = None, cache: Any = None) -> PrefetchOptions | None:
    config: dict[str, Any] = {"version": 2, "rafs": {}, "cache": {"type": "blobcache"}}
    if rafs is not None:
        config["rafs"]["prefetch"] = rafs
    if cache is not None:
        config["cache"]["prefetch"] = cache
    parsed, _ = parse_config(json.dumps(config))
    return options_of(parsed, ())


def test_what_a_configuration_asks_for() -> None:
    assert asked() is None
    assert asked(rafs={"enable": False}, cache={"enable": True}) is None
    assert asked(rafs={"enable": True}) == PrefetchOptions()
    assert asked(cache={"enable": True, "prefetch_all": True}) == PrefetchOptions(everything=True)
    full = {"enable": True, "threads": 3, "batch_size": 5, "bandwidth_limit": 7, "stream_prefetch": True}
    expected = PrefetchOptions(workers=3, batch_size=5, bandwidth_limit=7, stream=True)
    assert asked(rafs=full) == expected


def test_a_file_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = tmp_path / "list"
    listed.write_bytes(b"/a\n\nb\n/with space \xff\n")
    assert read_file_list(listed) == ("/a", "/with space \udcff")
    assert "paths must be absolute; left out: b" in caplog.text


async def record(image: BuiltImage, where: Path, out: Path, names: Sequence[str]) -> None:
    """A trace of a guest that reads these files."""
    where.mkdir()
    async with session(where, image) as s:
        await s.mounts.mount("/a", request(image, where, {"enable": False}))
        await s.mounts.start_trace("/a")
        for name in names:
            await s.read(f"/a/{name}")
        out.write_bytes(await s.mounts.read_trace("/a", is_last=True))


@pytest.mark.parametrize("way", ["request", "config", "auto"])
async def test_a_mount_follows_a_trace(
    image: BuiltImage, tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It needs no leave of the configuration, and that it is missing or broken stops nothing."""
    bootstrap = tmp_path / "boot"
    bootstrap.write_bytes(image.bootstrap.read_bytes())
    moved = replace(image, bootstrap=bootstrap)
    out = tmp_path / ("boot.trace" if way == "auto" else "t")
    await record(moved, tmp_path / "first", out, ["dir/file9", "dir/file4"])
    asked = {"enable": False, "trace": str(out)} if way == "config" else {"enable": False}
    mount = request(moved, tmp_path, asked)
    if way != "config":
        mount = mount._replace(trace="auto" if way == "auto" else str(out))
    async with session(tmp_path, moved) as s:
        await s.mounts.mount("/a", mount)
        assert (await until_prefetched(s))["entries_count"] == 2
        await s.mounts.umount("/a")
        assert caplog.text == ""
        out.write_bytes(b"nothing")
        await s.mounts.mount("/a", mount)
        await until(lambda: "the trace is not used: " in caplog.text)
        out.unlink()
        await s.mounts.mount("/b", mount)
        assert await s.read("/b/dir/file1") == b"content 1\n"


async def test_what_becomes_of_what_a_trace_had_fetched(image: BuiltImage, tmp_path: Path) -> None:
    """It is judged when as many chunks were read as stand before it, and some more."""
    names = ["big", *(f"dir/file{number}" for number in range(20))]
    await record(image, tmp_path / "first", tmp_path / "t", names)
    async with session(tmp_path, image) as s:
        mount = request(image, tmp_path, {"enable": False})._replace(trace=str(tmp_path / "t"))
        await s.mounts.mount("/a", mount)
        assert (await until_prefetched(s))["entries_count"] == CHUNKS
        instance = s.mounts.at("/a").instance
        assert instance is not None
        assert (await instance.figures()).prefetch.judged == 0
        for name in names:
            await s.read(f"/a/{name}")
        seen = (await instance.figures()).prefetch
        assert seen.judged == seen.useful == CHUNKS - SLACK
        assert seen.chunks == CHUNKS and not seen.stopped_by
