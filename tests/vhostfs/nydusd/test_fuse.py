"""`vhostfs-nydusd fuse` as nydus-snapshotter runs it: real mounts; daemons killed, replaced and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.native.rig import BuiltImage
from tests.trees import describe, differences
from tests.vhostfs.nydusd.daemon_process import PATIENCE_S, Nydusd
from tests.vhostfs.nydusd.snapshotter import Supervisor, command, daemon, kill, state, successor, until
from vhostfs.fuse_mount import mounted_at, umount

CHUNK = 64 << 10
#: bootstrap and configuration of a daemon that serves one image
Given = tuple[Path, Path]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    top = tmp_path_factory.mktemp("image")
    folder = top / "source/dir"
    folder.mkdir(parents=True)
    for number in range(30):
        (folder / f"file{number}").write_text(f"this is {number}\n" * (number + 1))
    (top / "source/big").write_bytes(os.urandom(40 * CHUNK + 99))
    return BuiltImage.build(top, chunk_size=CHUNK)


@pytest.fixture
def config(image: BuiltImage, tmp_path: Path) -> str:
    return json.dumps(
        {
            "device": {
                "backend": {"type": "localfs", "config": {"dir": str(image.blob_dir), "readahead": False}},
                "cache": {"type": "blobcache", "config": {"work_dir": str(tmp_path / "cache")}},
            },
            "mode": "direct",
            "digest_validate": False,
            "enable_xattr": True,
            "fs_prefetch": {"enable": False, "prefetch_all": False},
        }
    )


@pytest.fixture
def dedicated(image: BuiltImage, config: str, tmp_path: Path) -> Given:
    (tmp_path / "config.json").write_text(config)
    return image.bootstrap, tmp_path / "config.json"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "supervisor.sock")
    yield supervisor
    supervisor.drop()


def test_a_dedicated_daemon(image: BuiltImage, dedicated: Given, tmp_path: Path) -> None:
    words = command(tmp_path, *dedicated)
    with daemon(tmp_path, words) as nydusd:
        assert differences(describe(image.source), describe(tmp_path / "mnt")) == []
        for target in ("metrics", "metrics/blobcache", "metrics/backend"):
            assert nydusd.call("GET", f"/api/v1/{target}")[0] == 200
        assert nydusd.call("GET", "/api/v1/metrics/inflight") == (204, None)
        report = nydusd.call("GET", "/api/v1/daemon")[1]
        assert report["id"] is None and report["supervisor"] is None
        assert nydusd.end() == 0
        assert mounted_at(tmp_path / "mnt") is None
        assert not (tmp_path / "api.sock").exists()


def test_the_old_command_line_without_a_mode(dedicated: Given, tmp_path: Path) -> None:
    with daemon(tmp_path, command(tmp_path, *dedicated)[1:]) as nydusd:
        assert (tmp_path / "mnt/dir/file3").read_text().startswith("this is 3")
        assert nydusd.end(signal.SIGINT) == 0


def test_an_unmount_ends_it(dedicated: Given, tmp_path: Path) -> None:
    with daemon(tmp_path, command(tmp_path, *dedicated)) as nydusd:
        umount(tmp_path / "mnt", lazy=True)
        assert nydusd.process.wait(PATIENCE_S) == 0


def test_the_end_with_busy_files_and_a_kill(dedicated: Given, tmp_path: Path) -> None:
    words = command(tmp_path, *dedicated)
    with daemon(tmp_path, words) as nydusd:
        fd = os.open(tmp_path / "mnt/big", os.O_RDONLY)
        assert nydusd.end() == 0
        with suppress(OSError):  # ENOTCONN: nobody is there to hear of it
            os.close(fd)
        assert mounted_at(tmp_path / "mnt") is None
    with daemon(tmp_path, words) as nydusd:
        kill(nydusd)  # without a supervisor the mount goes with it
        until(lambda: mounted_at(tmp_path / "mnt") is None)


def test_what_cannot_begin_leaves_no_mount(dedicated: Given, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(bytes(8192))
    words = [
        *command(tmp_path, tmp_path / "bad", dedicated[1]),
        "--sandbox-writable",
        tmp_path,
    ]
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "vhostfs.nydusd", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1 and "bad" in done.stderr
    until(lambda: mounted_at(tmp_path / "mnt") is None)
    assert not (tmp_path / "api.sock").exists()


def test_a_shared_daemon(image: BuiltImage, config: str, tmp_path: Path) -> None:
    body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
    with daemon(tmp_path, command(tmp_path)) as nydusd:
        expected = describe(image.source)
        for sid in ("1", "2", "3"):
            assert nydusd.call("POST", f"/api/v1/mount?mountpoint=%2F{sid}", body) == (204, None)
            assert differences(expected, describe(tmp_path / "mnt" / sid)) == []
        assert nydusd.call("GET", "/api/v1/metrics?id=%2F2")[0] == 200
        assert nydusd.call("DELETE", "/api/v1/mount?mountpoint=%2F2") == (204, None)
        assert not (tmp_path / "mnt/2/dir").exists()
        assert nydusd.call("POST", "/api/v1/mount?mountpoint=%2F2", body) == (204, None)
        assert (tmp_path / "mnt/2/dir/file1").read_text().startswith("this is 1")
        assert nydusd.end() == 0


class Reader(threading.Thread):
    """Reads pieces of a file over and over, past the page cache, until `stopping` is set."""

    def __init__(self, where: Path, source: Path) -> None:
        super().__init__()
        self.where, self.expected = where, source.read_bytes()
        self.stopping = threading.Event()
        self.reads = 0
        self.wrong: list[str] = []

    def wait_for_more(self, nydusd: Nydusd) -> None:
        seen = self.reads
        until(lambda: self.reads > seen + 3, nydusd)

    def run(self) -> None:
        fd = os.open(self.where, os.O_RDONLY)
        size = len(self.expected)
        while not self.stopping.is_set():
            offset = self.reads * 7919 * 4096 % size // 4096 * 4096
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                if os.pread(fd, 100_000, offset) != self.expected[offset : offset + 100_000]:
                    self.wrong.append(f"bytes at {offset}")
            except OSError as error:
                self.wrong.append(str(error))
            self.reads += 1
        os.close(fd)


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.parametrize("is_shared", [False, True])
def test_kill_and_take_over(
    image: BuiltImage,
    config: str,
    dedicated: Given,
    supervisor: Supervisor,
    tmp_path: Path,
    is_shared: bool,
    kills: int,
) -> None:
    """Contract, rows 11: reads go on, open files and directories stay, no error and no wrong byte."""
    bootstrap, config_file = (None, None) if is_shared else dedicated
    words = command(tmp_path, bootstrap, config_file, supervisor.path)
    root = tmp_path / "mnt" / ("image" if is_shared else "")
    body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}

    def send_state() -> tuple[int, object]:
        return nydusd.call("PUT", "/api/v1/daemon/fuse/sendfd")

    with daemon(tmp_path, words) as nydusd:
        if is_shared:
            assert nydusd.call("POST", "/api/v1/mount?mountpoint=%2Fgone", body) == (204, None)
            assert nydusd.call("POST", "/api/v1/mount?mountpoint=%2Fimage", body) == (204, None)
            assert nydusd.call("DELETE", "/api/v1/mount?mountpoint=%2Fgone") == (204, None)
        assert supervisor.fetch(send_state) == (204, None)
        assert root.joinpath("dir/file1").read_text().startswith("this is 1")
        reader = Reader(root / "big", image.source / "big")
        reader.start()
        directory = os.open(root / "dir", os.O_RDONLY)
        until(lambda: reader.reads > 3)
        kill(nydusd)
        for _ in range(kills):
            assert mounted_at(tmp_path / "mnt") is not None
            (tmp_path / "mnt").stat()  # answered by the kernel: the snapshotter does that now
            with successor(tmp_path, words) as nydusd:
                assert nydusd.call("PUT", "/api/v1/daemon/start")[0] == 400
                assert supervisor.offer(lambda: nydusd.call("PUT", "/api/v1/daemon/fuse/takeover")) == (
                    204,
                    None,
                )
                assert state(nydusd) == "READY"
                assert nydusd.call("PUT", "/api/v1/daemon/start") == (204, None)
                assert state(nydusd) == "RUNNING"
                if is_shared:  # the snapshotter mounts all again
                    assert nydusd.call("POST", "/api/v1/mount?mountpoint=%2Fimage", body) == (204, None)
                reader.wait_for_more(nydusd)
                assert supervisor.fetch(send_state) == (204, None)
                with os.scandir(directory) as entries:
                    assert len(list(entries)) == 30
                assert differences(describe(image.source), describe(root)) == []
                kill(nydusd)
        with successor(tmp_path, words) as nydusd:
            assert supervisor.offer(lambda: nydusd.call("PUT", "/api/v1/daemon/fuse/takeover")) == (204, None)
            assert nydusd.call("PUT", "/api/v1/daemon/start") == (204, None)
            reader.stopping.set()
            reader.join(PATIENCE_S)
            assert reader.wrong == []
            os.close(directory)
            supervisor.drop()
            assert nydusd.end() == 0
        assert mounted_at(tmp_path / "mnt") is None


def test_hot_upgrade(image: BuiltImage, dedicated: Given, supervisor: Supervisor, tmp_path: Path) -> None:
    """Contract 4.6: the new one stands ready before the old one goes; nobody sees an error."""
    words = command(tmp_path, *dedicated, supervisor=supervisor.path)
    newer = command(tmp_path, *dedicated, supervisor.path, "api1.sock", upgrade=True)
    with daemon(tmp_path, words) as old:
        reader = Reader(tmp_path / "mnt/big", image.source / "big")
        reader.start()
        until(lambda: reader.reads > 3)
        assert supervisor.fetch(lambda: old.call("PUT", "/api/v1/daemon/fuse/sendfd")) == (204, None)
        with successor(tmp_path, newer) as new:
            assert supervisor.offer(lambda: new.call("PUT", "/api/v1/daemon/fuse/takeover")) == (204, None)
            assert state(new) == "READY"
            assert old.call("PUT", "/api/v1/daemon/exit") == (204, None)
            assert new.call("PUT", "/api/v1/daemon/start") == (204, None)
            assert old.process.wait(PATIENCE_S) == 0
            reader.wait_for_more(new)
            reader.stopping.set()
            reader.join(PATIENCE_S)
            assert reader.wrong == []
            supervisor.drop()
            assert new.end() == 0
        assert mounted_at(tmp_path / "mnt") is None


def test_nothing_to_take_over(dedicated: Given, supervisor: Supervisor, tmp_path: Path) -> None:
    """A supervisor that has nothing hangs up; what is none of ours is refused; the state stays INIT."""
    words = command(tmp_path, *dedicated, supervisor=supervisor.path)
    with daemon(tmp_path, words) as old:
        newer = command(tmp_path, *dedicated, supervisor.path, "api1.sock", upgrade=True)
        with successor(tmp_path, newer) as new:

            def take_over() -> tuple[int, object]:
                return new.call("PUT", "/api/v1/daemon/fuse/takeover")

            status, error = supervisor.offer(take_over)
            assert status == 500 and "nothing to hand over" in error["message"]
            supervisor.fd, supervisor.state = os.open("/dev/null", os.O_RDONLY), b"{}"
            status, error = supervisor.offer(take_over)
            assert status == 500 and "none of ours" in error["message"]
            assert state(new) == "INIT"
        assert old.end() == 0


def test_a_daemon_without_a_session_sends_nothing_but_connects(
    dedicated: Given, supervisor: Supervisor, tmp_path: Path
) -> None:
    words = command(tmp_path, *dedicated, supervisor=supervisor.path)
    newer = command(tmp_path, *dedicated, supervisor.path, "api1.sock", upgrade=True)
    with daemon(tmp_path, words) as old, successor(tmp_path, newer) as new:
        assert supervisor.fetch(lambda: new.call("PUT", "/api/v1/daemon/fuse/sendfd"))[0] == 503
        assert old.end() == 0


def test_singleton_says_what_to_use_instead(tmp_path: Path) -> None:
    words = ["singleton", "--fscache", tmp_path, "--apisock", tmp_path / "api"]
    done = subprocess.run(
        [sys.executable, "-m", "vhostfs.nydusd", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1 and 'fs_driver = "fusedev"' in done.stderr
