"""The daemon in its sandbox, where Kata puts things: /run/kata-containers, on a mount that is shared.

The machine's own /run/kata-containers is used, in a directory of a name of ours.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

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
from vhostfs.nydusd.arguments import parse_arguments
from vhostfs.sandbox_nydusd import KATA_SHARED, SNAPSHOTTER_ROOTS, kata_shares, snapshotter_directories
from vhostfs.sandbox_options import PARTS, SandboxOptions
from virtqueue.fuse_abi import Opcode

WHITEOUT = 0o020000


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    """What Kata makes before it starts nydusd: `mounts`, and `shared`, a read-only slave of it."""

    run_dir: Path
    mounts: Path
    shared: Path
    snapshot: Path


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    sandbox_id = f"test-{uuid.uuid4().hex[:12]}"
    made = [
        path
        for path in reversed((KATA_SHARED / "shared/sandboxes" / sandbox_id).parents)
        if not path.exists()
    ]
    top = KATA_SHARED / "shared/sandboxes" / sandbox_id
    with ExitStack() as stack:
        # (a socket's path is short)
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory())) / sandbox_id
        run_dir.mkdir()
        for path in [*made, top]:
            path.mkdir()
            stack.callback(path.rmdir)
        run("mount", "-t", "tmpfs", "-o", "size=2m", "kata", top)
        stack.callback(run, "umount", "--recursive", "--lazy", top)
        run("mount", "--make-shared", top)
        host = Host(run_dir, top / "mounts", top / "shared", tmp_path / "snapshot")
        for path in (host.mounts / "c1" / "snapshotdir", host.shared, host.snapshot / "fs"):
            path.mkdir(parents=True)
        run("mount", "--bind", host.mounts, host.shared)
        run("mount", "--make-slave", host.shared)
        run("mount", "-o", "remount,bind,ro", host.shared)
        yield host


@pytest.fixture
def nydusd(host: Host, image: BuiltImage, tmp_path: Path) -> Iterator[Nydusd]:
    words: list[str | Path] = ["virtiofs"]
    words += ["--apisock", host.run_dir / "api.sock", "--sock", host.run_dir / "vhost-fs.sock"]
    with started(tmp_path, words, reach=[tmp_path, image.bootstrap.parent]) as process:
        wait_go(process)
        yield process


def mount_share(nydusd: Nydusd, source: Path) -> tuple[int, object]:
    body = {"fs_type": "passthrough_fs", "source": str(source), "config": ""}
    return nydusd.call("POST", "/api/v1/mount?mountpoint=/containers", body)


def status_of(process: subprocess.Popen[bytes], thread: str = "") -> dict[str, str]:
    where = Path(f"/proc/{process.pid}") / (f"task/{thread}" if thread else "") / "status"
    return dict(line.split(":\t", 1) for line in where.read_text().splitlines())


def test_the_api_tells_what_became_of_each_part(nydusd: Nydusd, host: Host) -> None:
    for version in ("v1", "v2"):
        _, info = nydusd.call("GET", f"/api/{version}/daemon")
        report = info["sandbox"]
        assert set(report["parts"]) == set(PARTS)
        assert [part for part, state in report["parts"].items() if state != "on"] == ["landlock"]
        assert report["parts"]["landlock"].startswith("on, but not for files")
        assert str(host.shared.parent) in report["places"]["shared"]
        assert str(KATA_SHARED) not in report["places"]["shared"]  # nor what others share


def test_every_thread_is_under_it_while_a_guest_is_served(nydusd: Nydusd, host: Host) -> None:
    assert mount_share(nydusd, host.shared) == (204, None)
    with closing(Guest(str(nydusd.sock))) as guest:
        (host.mounts / "hosts").write_text("here\n")
        assert guest.fuse.walk(b"/containers/hosts").attr.size == 5
        threads = os.listdir(f"/proc/{nydusd.process.pid}/task")  # noqa: PTH208 (no need for paths)
        assert len(threads) > 2
        for thread in threads:
            fields = status_of(nydusd.process, thread)
            assert fields["Seccomp"] == "2" and fields["NoNewPrivs"] == "1"
            assert fields["CapPrm"] == fields["CapBnd"] == status_of(nydusd.process)["CapPrm"]


def test_a_container_comes_and_goes(nydusd: Nydusd, host: Host, image: BuiltImage, tmp_path: Path) -> None:
    """Its snapshot is bound into the share later, changed by the guest, and unmounted without a trace."""
    assert mount_share(nydusd, host.shared) == (204, None)
    config = snapshotter_config(image.blob_dir, tmp_path / "cache")
    rafs = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
    target = host.mounts / "c1" / "snapshotdir"
    with closing(Guest(str(nydusd.sock))) as guest:
        fuse = guest.fuse
        assert names(guest, b"/containers/c1/snapshotdir") == []
        run("mount", "--bind", host.snapshot, target)
        run("mount", "--make-slave", target)
        assert nydusd.call("POST", "/api/v1/mount?mountpoint=/rafs/c1/lowerdir", rafs) == (204, None)
        for _ in ("cold", "warm"):
            assert guest.read(b"/rafs/c1/lowerdir/big") == (image.source / "big").read_bytes()

        upper = fuse.walk(b"/containers/c1/snapshotdir/fs")
        make = struct.pack("<IIII", WHITEOUT, 0, 0, 0) + b"whiteout\0"
        fuse.call(Opcode.MKNOD, upper.nodeid, make, reply_size=128)
        assert (host.snapshot / "fs" / "whiteout").stat().st_rdev == 0
        set_xattr = struct.pack("<II", 1, 0) + b"trusted.overlay.opaque\0y"
        fuse.call(Opcode.SETXATTR, upper.nodeid, set_xattr)
        assert os.getxattr(host.snapshot / "fs", "trusted.overlay.opaque") == b"y"

        assert nydusd.call("DELETE", "/api/v1/mount?mountpoint=/rafs/c1/lowerdir") == (204, None)
        run("umount", target)  # not busy, though the guest remembers inodes on it
        target.rmdir()
        with pytest.raises(FileNotFoundError):
            fuse.walk(b"/containers/c1/snapshotdir/fs")
        assert str(host.snapshot) not in Path(f"/proc/{nydusd.process.pid}/mountinfo").read_text()


def names(guest: Guest, path: bytes) -> list[bytes]:
    entry = guest.fuse.walk(path)
    fh, _ = struct.unpack_from(
        "<QI", guest.fuse.call(Opcode.OPENDIR, entry.nodeid, struct.pack("<II", 0, 0), reply_size=16)
    )
    listed = guest.fuse.readdir(entry.nodeid, fh=fh)
    return [dirent.name for dirent in listed if dirent.name not in (b".", b"..")]


def test_what_another_sandbox_shares_is_out_of_reach(nydusd: Nydusd, host: Host, tmp_path: Path) -> None:
    other = host.shared.parents[1] / f"other-{uuid.uuid4().hex}"
    other.mkdir()
    try:
        status, error = mount_share(nydusd, other)
        assert status == 500 and isinstance(error, dict)
        assert str(other) in error["message"] and "--sandbox-writable" in error["message"]
    finally:
        other.rmdir()
    config = snapshotter_config(tmp_path, Path("/var/elsewhere"))
    body = {"fs_type": "rafs", "source": str(tmp_path / "boot"), "config": config}
    status, error = nydusd.call("POST", "/api/v1/mount?mountpoint=/rafs/x", body)
    assert status == 500 and error["message"].startswith("/var/elsewhere: the sandbox lets no cache be there")


def test_the_share_of_a_sandbox_is_found_by_its_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    own = tmp_path / "shared/sandboxes/abc"
    own.mkdir(parents=True)
    (tmp_path / "shared/sandboxes/def").mkdir()
    assert kata_shares([Path("/run/vc/vm/abc/vhost-fs.sock")], tmp_path) == [own]
    assert kata_shares([Path("/run/kata/abc/root/virtiofsd.sock")], tmp_path) == [own]
    assert kata_shares([Path("/run/vc/vm/ghi/vhost-fs.sock")], tmp_path) == [tmp_path]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    sockets = [Path("/run/user/1000/run/vc/vm/ghi/vhost-fs.sock")]
    assert kata_shares(sockets, tmp_path)[-1] == Path("/run/user/1000") / tmp_path.relative_to("/")


def test_the_directories_of_the_snapshotter_are_those_that_it_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    roots, caches = snapshotter_directories(config)
    assert roots == list(SNAPSHOTTER_ROOTS) and caches == [root / "cache" for root in SNAPSHOTTER_ROOTS]
    lines = ["version = 1", "# root = '/not/this'", 'root = "/data/nydus" # here', "address = '/run/x'"]
    lines += ["[cache_manager]", "cache_dir = '/data/cache'", 'gc_period = "24h"', "root_of_all ="]
    config.write_text("\n".join(lines))
    roots, caches = snapshotter_directories(config)
    assert roots[-1] == Path("/data/nydus")
    assert caches[-2:] == [Path("/data/nydus/cache"), Path("/data/cache")]


def test_a_cache_named_on_the_command_line_is_made_and_used(image: BuiltImage, tmp_path: Path) -> None:
    """With paths relative to where it was started."""
    (tmp_path / "config.json").write_text(snapshotter_config(image.blob_dir, Path("cache/deep")))
    words = ["virtiofs", "--apisock", "api", "--sock", "vu", "--config", "config.json", "-m", "/image"]
    words += ["--bootstrap", os.path.relpath(image.bootstrap, tmp_path), "--log-file", "logs/log"]
    with started(tmp_path, words) as nydusd:
        wait_go(nydusd)
        with closing(Guest(str(nydusd.sock))) as guest:
            assert guest.read(b"/image/dir/file1") == b"content 1\n"
        assert nydusd.end() == 0
    assert list((tmp_path / "cache" / "deep").glob("*.blob.data"))
    assert (tmp_path / "logs" / "log.log").exists()


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["--no-sandbox", "mount"], 2, "'mount' is no part of the sandbox; there are mounts, capabilities"),
        (["--no-sandbox", "no-new-privs"], 2, "add --no-sandbox=landlock,seccomp"),
        (["--sandbox-readable", "/nonexistent"], 1, "--sandbox-readable /nonexistent: no such file"),
        (["--sandbox-writable", "/nonexistent"], 1, "--sandbox-writable /nonexistent: no such file"),
    ],
)
def test_bad_options_say_what_is_wrong(tmp_path: Path, words: list[str], status: int, reason: str) -> None:
    command = [*NYDUSD, "virtiofs", "--sock", str(tmp_path / "vu"), *words]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert result.returncode == status and reason in result.stderr
    assert not (tmp_path / "vu").exists()


def test_options_are_taken_in_every_form(tmp_path: Path) -> None:
    words = ["virtiofs", "--sock", "x", "--no-sandbox", "landlock,mounts", "--no-sandbox=seccomp"]
    words += ["--sandbox-readable=/a", "--sandbox-writable", "b", "--sandbox=namespace"]
    arguments = parse_arguments(words)
    assert SandboxOptions.of(arguments) == SandboxOptions(
        off=frozenset({"landlock", "mounts", "seccomp"}),
        readable=(Path("/a"),),
        writable=(Path.cwd() / "b",),
    )
    assert arguments.ignored == ("--sandbox=namespace",)  # virtiofsd's


@pytest.mark.parametrize(("handles", "are_kept_open"), [("never", True), ("prefer", False)])
def test_inodes_of_host_directories_are_kept_as_the_command_line_says(
    tmp_path: Path, handles: str, are_kept_open: bool
) -> None:
    """Without file handles the right to open any file by one goes too."""
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "file").write_text("content")
    words = ["virtiofs", "--apisock", "api", "--sock", "vu", f"--inode-file-handles={handles}"]
    with started(tmp_path, words) as nydusd:
        wait_go(nydusd)
        assert mount_share(nydusd, tmp_path / "share") == (204, None)
        with closing(Guest(str(nydusd.sock))) as guest:
            assert guest.fuse.walk(b"/containers/file").attr.size == 7
            fds = Path(f"/proc/{nydusd.process.pid}/fd").iterdir()
            opened = [fd for fd in fds if os.fspath(fd.readlink()) == str(tmp_path / "share" / "file")]
            assert bool(opened) is are_kept_open
        capabilities = int(status_of(nydusd.process)["CapPrm"], 16)
        assert bool(capabilities >> 2 & 1) is not are_kept_open  # CAP_DAC_READ_SEARCH
