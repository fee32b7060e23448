"""The end of a daemon: in every state, by whoever asks for it, on time, and leaving nothing (row 7)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests.fakes.accounts import REPOSITORY
from tests.fakes.in_thread import in_thread
from tests.fakes.registry import FakeRegistry
from tests.native.host_mounts import hanging
from tests.native.rig import until
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.nydusd.daemon_process import (
    NYDUSD,
    Nydusd,
    environment,
    snapshotter_config,
    started,
    wait_go,
)
from tests.vhostfs.test_daemon import Guest
from virtqueue.fuse_abi import Opcode

#: Kata waits 5 s; we mean to need less than one, and leave a loaded machine some more.
LIMIT_S = 4.0


@contextmanager
def running(where: Path, image: BuiltImage | None = None) -> Iterator[Nydusd]:
    words = ["virtiofs", "--log-level", "debug", "--apisock", f"{where}/api", "--sock", f"{where}/vu"]
    reach = [where] if image is None else [where, image.bootstrap.parent]
    with started(where, words, reach=reach) as nydusd:
        wait_go(nydusd)
        yield nydusd


def mount(nydusd: Nydusd, image: BuiltImage, blob_dir: Path | None = None) -> None:
    config = snapshotter_config(blob_dir or image.blob_dir, nydusd.cwd / "cache")
    rafs = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
    assert nydusd.call("POST", "/api/v1/mount?mountpoint=/rafs/a/lowerdir", rafs) == (204, None)
    shared = {"fs_type": "passthrough_fs", "source": str(nydusd.cwd), "config": ""}
    assert nydusd.call("POST", "/api/v1/mount?mountpoint=/containers", shared) == (204, None)


def check_end(nydusd: Nydusd, number: signal.Signals = signal.SIGTERM) -> None:
    began = time.monotonic()
    assert nydusd.end(number) == 0, nydusd.log
    assert time.monotonic() - began < LIMIT_S
    assert not nydusd.sock.exists() and not nydusd.api.exists()
    assert "Traceback" not in nydusd.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_a_vmm_was_there(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as nydusd:
        check_end(nydusd, number)


def test_with_a_vmm_and_mounts(image: BuiltImage, tmp_path: Path) -> None:
    with running(tmp_path, image) as nydusd:
        mount(nydusd, image)
        with closing(Guest(str(nydusd.sock))) as guest:
            assert guest.read(b"/rafs/a/lowerdir/dir/file1") == b"content 1\n"
            check_end(nydusd)


def test_after_the_vmm_has_gone(image: BuiltImage, tmp_path: Path) -> None:
    """A daemon outlives its VMM and waits for the signal (gotcha 18)."""
    with running(tmp_path, image) as nydusd:
        mount(nydusd, image)
        for _ in range(2):
            with closing(Guest(str(nydusd.sock))) as guest:
                guest.read(b"/rafs/a/lowerdir/dir/file1")
        assert nydusd.call("GET", "/api/v1/daemon")[1]["state"] == "RUNNING"
        check_end(nydusd)


def test_with_reads_under_way_and_clients_that_say_nothing(image: BuiltImage, tmp_path: Path) -> None:
    with running(tmp_path, image) as nydusd, closing(Connections()) as connections:
        mount(nydusd, image)
        with closing(Guest(str(nydusd.sock))) as guest:
            big = guest.fuse.walk(b"/rafs/a/lowerdir/big")
            for offset in range(0, 1 << 20, 1 << 16):
                guest.fuse.submit_read(big.nodeid, offset, 4096)
            connections.open_idle(nydusd, 20)
            check_end(nydusd)


@pytest.mark.parametrize("prefetch", [False, True])
def test_while_a_registry_does_not_send_data(image: BuiltImage, tmp_path: Path, prefetch: bool) -> None:
    """It sent what a mount needs, from the end of the blob; chunks are waited for."""
    registry = FakeRegistry({blob.name: blob.read_bytes() for blob in image.blob_dir.iterdir()})
    waiting: list[str] = []

    async def hold_data(request: web.Request) -> None:
        if request.headers.get("Range", "").startswith("bytes=0-"):
            waiting.append(request.path)
            await asyncio.Event().wait()

    registry.answer = hold_data
    with in_thread(registry), running(tmp_path, image) as nydusd:
        backend = {
            "type": "registry",
            "config": {"scheme": "http", "host": registry.host, "repo": REPOSITORY},
        }
        config = json.loads(snapshotter_config(image.blob_dir, tmp_path / "cache", prefetch=prefetch))
        config["device"]["backend"] = backend
        rafs = {"fs_type": "rafs", "source": str(image.bootstrap), "config": json.dumps(config)}
        assert nydusd.call("POST", "/api/v1/mount?mountpoint=/rafs/a/lowerdir", rafs) == (204, None)
        with closing(Guest(str(nydusd.sock))) as guest:
            if not prefetch:
                big = guest.fuse.walk(b"/rafs/a/lowerdir/big")
                for offset in range(0, 1 << 20, 1 << 16):
                    guest.fuse.submit_read(big.nodeid, offset, 4096)
            until(lambda: bool(waiting))
            check_end(nydusd)


class Connections(ExitStack):
    """API connections that are open and say nothing."""

    def open_idle(self, nydusd: Nydusd, count: int) -> None:
        for _ in range(count):
            client = self.enter_context(nydusd.client())
            client.connect()


@pytest.mark.parametrize("stage", ["_dataplane.", "_asyncio.", "_queue."])
def test_while_it_starts(tmp_path: Path, stage: str) -> None:
    """At the moment when a library is loaded that the start needs: in this order, more or less."""
    words = ["virtiofs", "--apisock", tmp_path / "api", "--sock", tmp_path / "vu"]
    with subprocess.Popen(
        [*NYDUSD, *map(str, words)], env=environment(), stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        maps, deadline = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 20
        while stage not in maps.read_text() and process.poll() is None and time.monotonic() < deadline:
            pass
        seen = stage in maps.read_text()
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert seen and process.returncode == 0, errors
    assert b"Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_while_a_thread_hangs(image: BuiltImage, tmp_path: Path) -> None:
    """Somebody's disk does not answer: here a named pipe, which nobody opens for writing."""
    os.mkfifo(tmp_path / "boot")
    config = snapshotter_config(image.blob_dir, tmp_path / "cache")
    rafs = {"fs_type": "rafs", "source": str(tmp_path / "boot"), "config": config}
    with running(tmp_path, image) as nydusd, nydusd.client() as client:
        client.request("POST", "/api/v1/mount?mountpoint=/rafs/a/lowerdir", json.dumps(rafs))
        assert nydusd.call("GET", "/api/v1/daemon")[1]["state"] == "RUNNING"  # others are answered
        deadline = time.monotonic() + 20
        while len(open_pipes(nydusd)) == 0:
            assert time.monotonic() < deadline
        check_end(nydusd)
        assert "giving up" in nydusd.log


def test_while_a_host_directory_hangs(image: BuiltImage, tmp_path: Path) -> None:
    """A network file system below the share does not answer: all threads that may block wait for it."""
    (tmp_path / "volume").mkdir()
    with hanging(tmp_path / "volume"), running(tmp_path, image) as nydusd:
        mount(nydusd, image)
        with closing(Guest(str(nydusd.sock))) as guest:
            share = guest.fuse.walk(b"/containers").nodeid
            waiting = [
                guest.fuse.submit(Opcode.LOOKUP, share, b"volume\0", reply_size=128) for _ in range(40)
            ]
            assert guest.read(b"/rafs/a/lowerdir/dir/file1") == b"content 1\n"
            assert nydusd.call("DELETE", "/api/v1/mount?mountpoint=/rafs/a/lowerdir") == (204, None)
            assert guest.fuse.in_flight == len(waiting)
            check_end(nydusd)


def test_while_a_directory_to_be_shared_hangs(image: BuiltImage, tmp_path: Path) -> None:
    """Other mounts come and go meanwhile."""
    (tmp_path / "volume").mkdir()
    with hanging(tmp_path / "volume"), running(tmp_path, image) as nydusd, nydusd.client() as client:
        body = json.dumps({"fs_type": "passthrough_fs", "source": str(tmp_path / "volume"), "config": ""})
        client.request("POST", "/api/v1/mount?mountpoint=/volume", body)
        mount(nydusd, image)
        assert nydusd.call("DELETE", "/api/v1/mount?mountpoint=/containers") == (204, None)
        check_end(nydusd)


def open_pipes(nydusd: Nydusd) -> list[str]:
    """Threads of the daemon that wait for a named pipe to be opened."""
    tasks = Path(f"/proc/{nydusd.process.pid}/task").iterdir()
    return [task.name for task in tasks if (task / "wchan").read_text() in ("wait_for_partner", "fifo_open")]


def test_the_api_says_goodbye(image: BuiltImage, tmp_path: Path) -> None:
    with running(tmp_path, image) as nydusd, closing(Connections()) as connections:
        mount(nydusd, image)
        connections.open_idle(nydusd, 5)
        began = time.monotonic()
        assert nydusd.call("PUT", "/api/v1/daemon/exit") == (204, None)
        assert nydusd.process.wait(20) == 0
        assert time.monotonic() - began < LIMIT_S
        assert not nydusd.sock.exists() and not nydusd.api.exists()


def test_a_reader_that_does_not_read_or_goes_holds_nobody_up(image: BuiltImage, tmp_path: Path) -> None:
    """Kata may stop reading the pipe, or close it (gotcha 14)."""
    reader, writer = os.pipe()
    words = ["virtiofs", "--log-level", "debug", "--apisock", tmp_path / "api", "--sock", tmp_path / "vu"]
    process = subprocess.Popen(
        [*NYDUSD, *map(str, words)], env=environment(), stdout=writer, stderr=writer, cwd=tmp_path
    )
    os.close(writer)
    nydusd = Nydusd(process, tmp_path, tmp_path / "vu", tmp_path / "api")
    try:
        wait_go(nydusd)
        for _ in range(1000):  # each leaves a line of over 100 bytes: more than the pipe takes
            with nydusd.client() as client:
                for _ in range(2):
                    assert client.call("DELETE", "/api/v1/mount?mountpoint=/" + "x" * 100).status == 500
        os.close(reader)
        reader = -1
        assert nydusd.call("DELETE", "/api/v1/mount?mountpoint=/x")[0] == 500
        check_end(nydusd)
    finally:
        process.kill()
        process.wait()
        if reader >= 0:
            os.close(reader)
