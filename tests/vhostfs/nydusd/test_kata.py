"""Both of Kata's runtimes, to the letter: start, wait, mount, serve a guest, umount, stop (contract 1, 2)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vhostfs.api.client import UnixConnection
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.nydusd.daemon_process import (
    NYDUSD,
    Nydusd,
    Wait,
    environment,
    snapshotter_config,
    started,
    wait_go,
    wait_rust,
)
from tests.vhostfs.test_daemon import Guest

CONTAINER = "3f4e2a90d1b7c6"


@dataclass(frozen=True)
class Runtime:
    """How a runtime starts nydusd and talks to it."""

    words: tuple[str, ...]
    wait: Wait
    slash: str
    headers: tuple[tuple[str, str], ...]
    has_two_pipes: bool

    def point(self, *parts: str) -> str:
        return "/api/v1/mount?mountpoint=" + self.slash + self.slash.join(parts)

    def call(self, nydusd: Nydusd, method: str, target: str, body: object = None) -> tuple[int, object]:
        """A request as it makes them: a new connection for each."""
        headers = dict(self.headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        with UnixConnection(nydusd.api) as client:
            answered = client.call(method, target, body, **headers)
        return answered.status, answered.body


def go(words: str) -> Runtime:
    return Runtime(tuple(words.split()), wait_go, "/", (), False)


def rust(words: str) -> Runtime:
    headers = (("Content-Type", "application/json"),)
    return Runtime(tuple(words.split()), wait_rust, "%2F", headers, True)


GO = go("virtiofs --log-level info --apisock {dir}/nydusd-api.sock --sock {dir}/vhost-fs.sock")
RUNTIMES = {
    "go": GO,
    "go-debug-with-defaults": go(
        "virtiofs --log-level debug --apisock {dir}/nydusd-api.sock --sock {dir}/virtiofsd.sock "
        "--thread-pool-size=1 --announce-submounts"
    ),
    "rust": rust(
        "virtiofs --hybrid-mode --log-level info --apisock {dir}/nydusd-api.sock --sock {dir}/virtiofsd.sock"
    ),
    "rust-rootless-with-defaults": rust(
        "virtiofs --hybrid-mode --log-level info --apisock nydusd-api.sock --sock virtiofsd.sock "
        "--thread-pool-size=1 -o announce_submounts --log-level warn"
    ),
}


def read_open(guest: Guest, path: bytes) -> bytes:
    """A file of a host directory: it has to be opened."""
    entry = guest.fuse.walk(path)
    fh, _ = guest.fuse.open(entry.nodeid)
    return guest.fuse.read(entry.nodeid, 0, 4096, fh=fh)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_sandbox_from_start_to_stop(name: str, image: BuiltImage, tmp_path: Path) -> None:
    runtime = RUNTIMES[name]
    shared = tmp_path / "shared"
    (shared / CONTAINER / "snapshotdir" / "fs").mkdir(parents=True)
    (shared / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    words = [word.format(dir=tmp_path) for word in runtime.words]
    reach = [tmp_path, image.bootstrap.parent]
    with started(tmp_path, words, reach=reach, separate=runtime.has_two_pipes) as nydusd:
        runtime.wait(nydusd)
        assert nydusd.sock.is_socket()  # bound before RUNNING is told

        passthrough = {"fs_type": "passthrough_fs", "source": str(shared), "config": ""}
        assert runtime.call(nydusd, "POST", runtime.point("containers"), passthrough) == (204, None)

        with closing(Guest(str(nydusd.sock))) as guest:  # the VMM connects now
            assert read_open(guest, b"/containers/resolv.conf") == b"nameserver 192.0.2.1\n"
            with pytest.raises(FileNotFoundError):
                guest.fuse.walk(b"/rafs")

            config = snapshotter_config(image.blob_dir, tmp_path / "cache")
            rafs = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
            lowerdir = runtime.point("rafs", CONTAINER, "lowerdir")
            assert runtime.call(nydusd, "POST", lowerdir, rafs) == (204, None)
            inside = b"/rafs/" + CONTAINER.encode() + b"/lowerdir/"
            assert guest.read(inside + b"dir/file7") == b"content 7\n"
            assert guest.read(inside + b"big") == (image.source / "big").read_bytes()
            snapshot = guest.fuse.walk(b"/containers/" + CONTAINER.encode() + b"/snapshotdir/fs")
            assert snapshot.nodeid not in (0, guest.fuse.walk(inside).nodeid)

            status, metrics = runtime.call(nydusd, "GET", "/api/v1/metrics/blobcache")
            assert status == 200 and isinstance(metrics, dict)
            assert [name.endswith(".blob.data") for name in metrics["underlying_files"]] == [True]

            held = guest.fuse.walk(inside + b"dir")
            assert runtime.call(nydusd, "DELETE", lowerdir) == (204, None)
            with pytest.raises(FileNotFoundError):
                guest.fuse.walk(inside + b"dir")
            with pytest.raises(OSError, match=r"Stale|No such"):
                guest.fuse.getattr(held.nodeid)
            guest.fuse.forget(held.nodeid)
            guest.fuse.batch_forget([(held.nodeid, 1), (snapshot.nodeid, 1)])
            # the roll-back of a container may try again, and is told in JSON
            status, error = runtime.call(nydusd, "DELETE", lowerdir)
            assert status == 500 and isinstance(error, dict) and set(error) == {"code", "message"}
            assert read_open(guest, b"/containers/resolv.conf") == b"nameserver 192.0.2.1\n"

        # the VMM is killed first
        began = time.monotonic()
        assert nydusd.end() == 0
        assert time.monotonic() - began < 5
        assert not nydusd.sock.exists() and not nydusd.api.exists()
    for line in nydusd.lines:
        assert len(line) < 65536 and "\0" not in line.decode("utf-8")


def test_the_log_tells_once_of_what_has_no_effect(tmp_path: Path) -> None:
    words = [w.format(dir=tmp_path) for w in RUNTIMES["rust-rootless-with-defaults"].words]
    with started(tmp_path, words) as nydusd:
        wait_rust(nydusd)
        nydusd.end()
    told = [line for line in nydusd.log.splitlines() if "without effect" in line]
    assert len(told) == 1 and told[0].endswith(": --thread-pool-size=1 -o=announce_submounts")


def test_nothing_is_written_where_it_was_started(tmp_path: Path) -> None:
    """Its working directory is the bundle of the sandbox (gotcha 19)."""
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    bundle.mkdir()
    run.mkdir()
    with started(bundle, [word.format(dir=run) for word in GO.words]) as nydusd:
        wait_go(nydusd)
        assert nydusd.end() == 0
    assert not list(bundle.iterdir()) and not list(run.iterdir())


def test_mounts_that_fail_are_told_as_clients_parse_it(image: BuiltImage, tmp_path: Path) -> None:
    """Row 3, and what else comes back as 500 with a reason that Kata shows to its user."""
    words, reach = [word.format(dir=tmp_path) for word in GO.words], [tmp_path, image.bootstrap.parent]
    with started(tmp_path, words, reach=reach) as nydusd:
        wait_go(nydusd)

        def refusal(target: str, **body: str) -> str:
            status, error = nydusd.call("POST", target, body)
            assert status == 500 and set(error) == {"code", "message"}, error
            message: str = error["message"]
            return message

        shared = {"fs_type": "passthrough_fs", "source": str(tmp_path), "config": ""}
        assert nydusd.call("POST", "/api/v1/mount?mountpoint=/containers", shared) == (204, None)
        for target in ("/containers", "%2Fcontainers", "//containers/"):
            target = f"/api/v1/mount?mountpoint={target}"
            assert "already exists" in refusal(target, **shared)
        boot, point = str(image.bootstrap), "/api/v1/mount?mountpoint=/rafs/x/lowerdir"
        good = snapshotter_config(image.blob_dir, tmp_path / "cache")
        missing = str(tmp_path / "boot")
        assert f"{missing}: No such file" in refusal(point, fs_type="rafs", source=missing, config=good)
        (tmp_path / "boot").write_text("no such thing")
        assert "not a bootstrap" in refusal(point, fs_type="rafs", source=missing, config=good)
        assert "device: must be given" in refusal(point, fs_type="rafs", source=boot, config="{}")
        registry = good.replace('"localfs"', '"registry"').replace('"dir"', '"host": "127.0.0.1:1", "repo"')
        assert "127.0.0.1:1: no connection" in refusal(point, fs_type="rafs", source=boot, config=registry)
        empty = snapshotter_config(tmp_path / "nothing", tmp_path / "cache")
        assert str(tmp_path / "nothing") in refusal(point, fs_type="rafs", source=boot, config=empty)
        assert "not a directory" in refusal(point, fs_type="passthrough", source=boot, config="")
        assert "fs_type 'nfs'" in refusal(point, fs_type="nfs", source=boot, config="")
        escape = "/api/v1/mount?mountpoint=/a/../b"
        assert "no mountpoint" in refusal(escape, **shared)
        below = "/api/v1/mount?mountpoint=/containers/x/y"
        assert "through another mount" in refusal(below, **shared)
        # and none of these left anything behind
        assert nydusd.call("POST", point, {"fs_type": "rafs", "source": boot, "config": good}) == (204, None)
        _, info = nydusd.call("GET", "/api/v1/daemon")
        assert sorted(info["backend_collection"]) == ["/containers", "/rafs/x/lowerdir"]


def test_version_is_what_the_api_tells(tmp_path: Path) -> None:
    """Row 13: another commit makes the snapshotter upgrade at every start."""
    shown = subprocess.run(
        [*NYDUSD, "--version"], capture_output=True, text=True, check=True, env=environment()
    )
    [commit] = [line.split(":", 1)[1].strip() for line in shown.stdout.splitlines() if "Git Commit:" in line]
    with started(tmp_path, [word.format(dir=tmp_path) for word in GO.words]) as nydusd:
        assert wait_go(nydusd)["version"]["git_commit"] == commit


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["virtiofs", "--sock", "/nonexistent/vu.sock"], 1, "/nonexistent"),
        (
            ["virtiofs", "--sock", "vu", "--bootstrap", "/nonexistent", "-D", "/tmp"],
            1,
            "/nonexistent: No such",
        ),
        (["virtiofs", "--sock", "vu", "--bootstrap", "/etc/passwd"], 1, "needs --config or --localfs-dir"),
        (
            ["virtiofs", "--sock", "vu", "-B", "/etc/passwd", "-C", "/etc/passwd"],
            1,
            "/etc/passwd: the config",
        ),
        (["virtiofs", "--sock", "vu", "--shared-dir", "/nonexistent"], 1, "/nonexistent"),
        (["virtiofs", "--sock", "vu", "--log-file", "/proc/nothing/log"], 1, "/proc/nothing"),
        (["fuse", "--mountpoint", "/nonexistent"], 1, "/nonexistent: No such file or directory"),
        (["singleton"], 1, "is not served: let the snapshotter use"),
        (["virtiofs", "--frob"], 2, "--sock"),
    ],
)
def test_a_start_that_fails(words: list[str], status: int, says: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [*NYDUSD, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=20
    )
    assert (result.returncode, result.stdout) == (status, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("vhostfs-nydusd: ") and says in last
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_killed_and_started_again(image: BuiltImage, tmp_path: Path) -> None:
    """runtime-rs kills without a warning: sockets are replaced, the cache is of use (row 7, gotcha 17)."""
    words = [word.format(dir=tmp_path) for word in GO.words]
    rafs = {
        "fs_type": "rafs",
        "source": str(image.bootstrap),
        "config": snapshotter_config(image.blob_dir, tmp_path / "cache"),
    }
    for fetched in (17, 0):
        with started(tmp_path, words, reach=[tmp_path, image.bootstrap.parent]) as nydusd:
            wait_go(nydusd)
            assert nydusd.call("POST", "/api/v1/mount?mountpoint=/rafs/a/lowerdir", rafs)[0] == 204
            with closing(Guest(str(nydusd.sock))) as guest:
                assert guest.read(b"/rafs/a/lowerdir/big") == (image.source / "big").read_bytes()
            status, backend = nydusd.call("GET", "/api/v1/metrics/backend?id=/15")
            assert status == 200 and (backend["read_amount_total"] > 1 << 20) == bool(fetched)
            os.kill(nydusd.process.pid, signal.SIGKILL)
            nydusd.process.wait()
        assert nydusd.sock.is_socket() and nydusd.api.is_socket()


def test_a_cache_that_is_removed_serves_who_has_it(image: BuiltImage, tmp_path: Path) -> None:
    """The snapshotter collects an image's cache while a sandbox still runs of it (gotcha 42)."""
    words = [word.format(dir=tmp_path) for word in GO.words]
    config = snapshotter_config(image.blob_dir, tmp_path / "cache")
    rafs = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
    target = "/api/v1/mount?mountpoint=/rafs/a/lowerdir"
    with started(tmp_path, words, reach=[tmp_path, image.bootstrap.parent]) as nydusd:
        wait_go(nydusd)
        assert nydusd.call("POST", target, rafs)[0] == 204
        with closing(Guest(str(nydusd.sock))) as guest:
            assert guest.read(b"/rafs/a/lowerdir/dir/file1") == b"content 1\n"
            for path in (tmp_path / "cache").glob("*.blob.*"):
                path.unlink()
            assert guest.read(b"/rafs/a/lowerdir/dir/file1") == b"content 1\n"
            assert guest.read(b"/rafs/a/lowerdir/big") == (image.source / "big").read_bytes()
        assert nydusd.call("DELETE", target) == (204, None)
        assert nydusd.end() == 0
    assert "Traceback" not in nydusd.log
