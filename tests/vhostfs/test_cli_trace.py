"""`vhostfs trace`: what it prints, writes and refuses."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from rafs.image import Image
from rafs.trace.format import Access, Trace
from tests.fakes.served_registry import registry_served
from tests.rafs.trace.test_registry import an_image
from tests.rafs.trace.traces import trace_of
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.nydusd.daemon_process import snapshotter_config, started, wait_go
from tests.vhostfs.test_daemon import Guest
from vhostfs.__main__ import main
from vhostfs.tracing import find_trace, read_trace, sha256_of, write_trace

MERGED = "2 chunks of 2 runs, 1 of them read in every one\n"


def of_image(image: BuiltImage, sha256: bytes) -> Trace:
    """One that read two files."""
    opened = Image(image.bootstrap)
    accesses = []
    for time_ms, path in enumerate((b"/dir/file3", b"/big"), 1):
        nid = opened.resolve(path)
        (extent, *_) = opened.extents(nid, 0, opened.inode(nid).size)
        accesses.append(Access(time_ms * 10**6, nid, 0, 10, 0, extent.chunk_index, pid=77, flags=time_ms - 1))
    blob_id = opened.blob(0).blob_id
    opened.close()
    return Trace(blobs=(blob_id,), accesses=tuple(accesses), image_sha256=sha256)


def test_show(image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t"
    write_trace(path, of_image(image, sha256_of(image.bootstrap)))
    assert main(["trace", "show", str(path), "--bootstrap", str(image.bootstrap)]) == 0
    out = capsys.readouterr().out
    assert "2 chunks of 2 files, 20 B asked for first, 1 chunks waited for" in out
    assert out.index("/dir/file3") < out.index("/big") and "another bootstrap" not in out
    assert main(["trace", "show", str(path), "--chunks"]) == 0
    out = capsys.readouterr().out
    assert "nid " in out and " 77 " in out and "miss" in out
    write_trace(path, of_image(image, bytes(32)))
    assert main(["trace", "show", str(path), "--bootstrap", str(image.bootstrap)]) == 0
    assert "The trace is of another bootstrap than this one" in capsys.readouterr().out


def test_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path / "a", trace_of([(0, 1)]))
    write_trace(tmp_path / "b", trace_of([(0, 2), (0, 1)]))
    out = tmp_path / "out"
    assert main(["trace", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(out)]) == 0
    assert capsys.readouterr().out == MERGED
    assert read_trace(out).runs == 2


def test_record_through_the_api(
    image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["virtiofs", "--hybrid-mode", "--sock", "vu", "--apisock", "api"]
    with started(tmp_path, words) as nydusd:
        wait_go(nydusd)
        config = snapshotter_config(image.blob_dir, tmp_path / "cache", prefetch=False)
        body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
        assert nydusd.call("POST", "/api/v1/mount?mountpoint=/image", body)[0] == 204
        out, done = tmp_path / "out", threading.Event()

        def read_on() -> None:
            guest = Guest(str(tmp_path / "vu"))
            while not done.is_set():
                guest.read(b"/image/dir/file5")
            guest.close()

        reading = threading.Thread(target=read_on)
        reading.start()
        try:
            command = ["trace", "record", "--api", str(nydusd.api), "--mountpoint", "/image"]
            assert main([*command, "--seconds", "0.3", "-o", str(out)]) == 0
        finally:
            done.set()
            reading.join()
        assert capsys.readouterr().out == "1 chunks, 0 dropped\n"
        assert len(read_trace(out).accesses) == 1
        command[-1] = "/nothing"
        assert main([*command, "-o", str(out)]) == 1
        assert "the daemon answered 500: /nothing: not found" in capsys.readouterr().err
    assert main([*command, "-o", str(out)]) == 1
    assert f"vhostfs trace: {nydusd.api}: " in capsys.readouterr().err


def test_what_is_no_trace(image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot = str(image.bootstrap)
    assert main(["trace", "show", boot]) == 1
    assert capsys.readouterr().err == f"vhostfs trace: {boot}: it is not a trace: the magic number is wrong\n"
    assert main(["trace", "merge", str(tmp_path / "nothing"), "-o", str(tmp_path / "x")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_push_and_pull(image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And `--trace auto` looks where pull writes it by default."""
    for number, chunks in enumerate([[(0, 1)], [(0, 1), (0, 2)]]):
        write_trace(tmp_path / str(number), trace_of(chunks))
    boot = tmp_path / "boot"
    boot.write_bytes(image.bootstrap.read_bytes())
    with registry_served(tmp_path / "registry") as host:
        name = f"{host}/team/web:1"
        assert main(["trace", "pull", name, "--bootstrap", str(boot)]) == 1
        assert f"manifest 1 of {host}/team/web" in capsys.readouterr().err
        asyncio.run(push_an_image(host))
        for number in range(2):
            assert main(["trace", "push", str(tmp_path / str(number)), name]) == 0
            assert capsys.readouterr().out.startswith("sha256:")
        assert main(["trace", "pull", name, "--bootstrap", str(boot)]) == 0
        assert capsys.readouterr().out == "2 chunks of 1 runs\n"
        assert find_trace("auto", boot) == read_trace(tmp_path / "1")
        assert main(["trace", "pull", name, "--merge", "-o", str(tmp_path / "merged")]) == 0
        assert read_trace(tmp_path / "merged").runs == 2
    assert main(["trace", "push", str(boot), "No/Image"]) == 1
    assert "not a trace" in capsys.readouterr().err


async def push_an_image(host: str) -> None:
    async with an_image(host):
        pass
