"""Recording a mount's reads: by `serve`, through Mounts, and as files that are whole or not there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rafs.image import Image
from rafs.prefetch.options import PrefetchOptions
from rafs.trace.errors import TraceError
from rafs.trace.format import Trace, parse_trace
from rafs.trace.report import files_of
from tests.rafs.trace.traces import trace_of
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.session import session
from tests.vhostfs.test_daemon import Guest, serving
from vhostfs.mounts import MountError
from vhostfs.tracing import read_trace, sha256_of, write_trace


def paths_of(trace: Trace, image: BuiltImage) -> list[bytes | None]:
    opened = Image(image.bootstrap)
    try:
        return [file.path for file in files_of(trace, opened)]
    finally:
        opened.close()


async def test_a_run_that_is_recorded_serves_the_next_one(image: BuiltImage, tmp_path: Path) -> None:
    out = tmp_path / "run.trace"
    async with serving(image.options(tmp_path, trace_out=out)) as daemon:
        guest = await asyncio.to_thread(Guest, str(tmp_path / "sock"))
        for name in (b"/dir/file7", b"/big", b"/dir/file2"):
            await asyncio.to_thread(guest.read, name)
        await asyncio.to_thread(guest.close)
        assert (await daemon.statistics())["fetch_fetched_chunks"] == 19
    trace = read_trace(out)
    assert paths_of(trace, image) == [b"/dir/file7", b"/big", b"/dir/file2"]
    assert len(trace.accesses) == 19 and all(access.missed for access in trace.accesses)
    assert trace.image_sha256 == sha256_of(image.bootstrap) and trace.dropped == 0
    (tmp_path / "next").mkdir()
    options = image.options(tmp_path / "next", trace=trace, prefetch=PrefetchOptions(files=()))
    async with serving(options) as daemon:
        async with asyncio.timeout(20):
            while not (await daemon.statistics())["prefetch_ended_at"]:
                await asyncio.sleep(0.005)
        assert (await daemon.statistics())["prefetch_chunks"] == 19
        assert (await daemon.statistics())["fetch_fetched_chunks"] == 19


async def test_a_mount_is_recorded_while_it_is_used(image: BuiltImage, tmp_path: Path) -> None:
    async with session(tmp_path, image) as s:
        await s.mounts.mount("/a", s.request())
        with pytest.raises(MountError, match="/a: nothing is being recorded"):
            await s.mounts.read_trace("/a", is_last=False)
        await s.mounts.start_trace("/a")
        await s.read("/a/dir/file1")
        first = parse_trace(await s.mounts.read_trace("/a", is_last=False))
        assert paths_of(first, image) == [b"/dir/file1"]
        await s.read("/a/dir/file2")
        await s.mounts.start_trace("/a")  # anew
        await s.read("/a/dir/file2")
        last = parse_trace(await s.mounts.read_trace("/a", is_last=True))
        assert paths_of(last, image) == [b"/dir/file2"] and not last.accesses[0].missed
        with pytest.raises(MountError, match="nothing is being recorded"):
            await s.mounts.read_trace("/a", is_last=False)
        await s.mounts.start_trace("/a")
        await s.mounts.remount("/a", s.request(snapshot="16"))
        assert await s.read("/a/dir/file2") == b"content 2\n"
        await s.mounts.start_trace("/a")
        await s.mounts.umount("/a")
        await s.mounts.mount("/shared", s.shared())
        with pytest.raises(MountError, match="only the reads of images"):
            await s.mounts.start_trace("/shared")


def test_files(tmp_path: Path) -> None:
    path, trace = tmp_path / "t", trace_of([(0, 1)])
    write_trace(path, trace)
    assert read_trace(path) == trace and list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TraceError, match=f"{path}: it is damaged"):
        read_trace(path)
    with pytest.raises(FileNotFoundError):
        write_trace(tmp_path / "nowhere" / "t", trace)
