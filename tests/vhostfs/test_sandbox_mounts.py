"""Mounts that come and go on the host while the sandbox stands: seen, and never held."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vhostfs.sandboxed import start
from vhostfs.sandbox_nydusd import PASSTHROUGH_CAPABILITIES
from vhostfs.sandbox_policy import Place, SandboxPolicy, Use
from vhostfs.sandbox_root import MountTable, resolve


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A file system that is shared with other namespaces, as /run is under systemd."""
    place = tmp_path / "host"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "host", place)
    run("mount", "--make-shared", place)
    try:
        (place / "share" / "mounts" / "one").mkdir(parents=True)
        (place / "snapshot").mkdir()
        (place / "snapshot" / "file").write_text("of the snapshot")
        yield place
    finally:
        run("umount", "--recursive", "--lazy", place)


def policy_for(host: Path) -> SandboxPolicy:
    return SandboxPolicy(
        places=(Place(host / "share", Use.SHARED),),
        followed=(host / "share",),
        capabilities=PASSTHROUGH_CAPABILITIES,
        passthrough=True,
    )


class Inside:
    """A process in the sandbox that does as it is told, one expression a line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.parts = self._answer()

    def ask(self, expression: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(expression.encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextmanager
def inside(policy: SandboxPolicy) -> Iterator[Inside]:
    code = """
answer = lambda value: print(json.dumps(value), flush=True)
answer(apply_sandbox(policy).parts)
kept = []
for line in sys.stdin.buffer:
    answer(eval(line))
"""
    with start(policy, code) as process:
        try:
            yield Inside(process)
        finally:
            process.communicate(timeout=60)
    assert process.returncode == 0


def read_of(path: Path) -> str:
    return f"outcome(Path({str(path)!r}).read_text)"


@pytest.mark.parametrize("how", [(), ("--lazy",)])
def test_a_later_mount_is_seen_and_goes_with_the_hosts(host: Path, how: tuple[str, ...]) -> None:
    target = host / "share" / "mounts" / "one"
    with inside(policy_for(host)) as sandbox:
        assert sandbox.parts["mounts"] == "on"
        assert sandbox.ask(read_of(target / "file")) == "ENOENT"
        run("mount", "--bind", host / "snapshot", target)
        assert sandbox.ask(read_of(target / "file")) == "ok"
        assert sandbox.ask(f"outcome(Path({str(target / 'new')!r}).touch)") == "ok"
        assert (host / "snapshot" / "new").exists()
        run("umount", *how, target)
        assert sandbox.ask(read_of(target / "file")) == "ENOENT"
        target.rmdir()  # nobody holds it


def test_a_mount_of_the_host_is_not_busy_for_our_copy(host: Path) -> None:
    """One that was there before us, below a place and beside it: neither is kept."""
    below, beside = host / "share" / "mounts" / "one", host / "beside"
    beside.mkdir()
    for target in (below, beside):
        run("mount", "-t", "tmpfs", "-o", "size=1m", "busy?", target)
    with inside(policy_for(host)) as sandbox:
        assert sandbox.ask(f"len(os.listdir({str(below)!r}))") == 0
        for target in (below, beside):
            device = target.stat().st_dev
            run("umount", target)
            assert target.stat().st_dev != device
        # no namespace has them any more
        held = "[line for line in Path('/proc/self/mountinfo').read_text().splitlines() if 'busy' in line]"
        assert sandbox.ask(held) == []


def test_an_open_file_keeps_the_mount_from_umount_but_not_from_a_lazy_one(host: Path) -> None:
    """What the sandbox does not change: EBUSY is a matter of descriptors, not of namespaces."""
    target = host / "share" / "mounts" / "one"
    with inside(policy_for(host)) as sandbox:
        run("mount", "--bind", host / "snapshot", target)
        assert sandbox.ask(f"kept.append(open({str(target / 'file')!r}))") is None
        with pytest.raises(subprocess.CalledProcessError) as refused:
            run("umount", target)
        assert "busy" in refused.value.stderr
        run("umount", "--lazy", target)
        assert sandbox.ask(read_of(target / "file")) == "ENOENT"
        assert sandbox.ask("kept.pop().read()") == "of the snapshot"


def test_nothing_that_is_mounted_inside_would_reach_the_host(host: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with inside(policy_for(host)):
        assert Path("/proc/self/mountinfo").read_text() == before


def test_a_share_on_a_private_mount_is_served_without_a_namespace(host: Path) -> None:
    run("mount", "--make-private", host)
    with inside(policy_for(host)) as sandbox:
        assert sandbox.parts["mounts"].startswith("unavailable: ")
        assert "is not on a shared mount" in sandbox.parts["mounts"]
        target = host / "share" / "mounts" / "one"
        run("mount", "--bind", host / "snapshot", target)
        assert sandbox.ask(read_of(target / "file")) == "ok"
        run("umount", target)


HANDLES = """
directory = os.open(policy.places[0].path, os.O_RDONLY)
handle = bytearray(136)
handle[0] = 128
c_handle = (ctypes.c_char * 136).from_buffer(handle)
mount_id, name = ctypes.c_int(), ctypes.create_string_buffer(b"file")
address = ctypes.addressof
assert system_call("name_to_handle_at", directory, address(name), address(c_handle),
                   address(mount_id), 0) == 0
answer = lambda value: print(json.dumps(value), flush=True)
answer(apply_sandbox(policy).parts)
sys.stdin.buffer.readline()
os.mkdir("sub", dir_fd=directory)
def open_handle(flags):
    return system_call("open_by_handle_at", directory, address(c_handle), flags)
def link_handle():
    os.link(f"/proc/self/fd/{open_handle(os.O_PATH)}", "sub/linked", dst_dir_fd=directory)
answer([outcome(link_handle), outcome(lambda: open_handle(os.O_RDWR))])
"""


@pytest.mark.parametrize("file_handles", [True, False])
def test_files_that_left_the_cache_are_used_by_handle(tmp_path: Path, file_handles: bool) -> None:
    """Landlock would refuse them, as they have no path in memory: a passthrough must not lose its files."""
    (tmp_path / "file").write_text("content")
    policy = SandboxPolicy(
        places=(Place(tmp_path, Use.SHARED),),
        capabilities=PASSTHROUGH_CAPABILITIES,
        passthrough=True,
        file_handles=file_handles,
        off=frozenset({"mounts"}),  # this file system is not shared
    )
    with start(policy, HANDLES) as process:
        assert process.stdin is not None and process.stdout is not None
        landlock = json.loads(process.stdout.readline())["landlock"]
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("2")
        out, _ = process.communicate(b"\n", timeout=60)
    if file_handles:
        assert landlock == "on, but not for files: they are opened by handle"
        assert json.loads(out) == ["ok", "ok"]
    else:
        assert landlock == "on"
        assert json.loads(out) == ["ENOSYS", "ENOSYS"]


def test_the_mount_table_knows_the_topmost_mount_that_fits() -> None:
    mountinfo = "\n".join(
        [
            "1 0 0:1 / / rw - ext4 /dev/x rw",
            "2 1 0:2 / /run rw,nosuid shared:5 - tmpfs tmpfs rw",
            "3 2 0:3 / /run/a\\040b rw master:7 shared:9 - tmpfs tmpfs rw",
            "4 2 0:4 / /run/c rw shared:6 - tmpfs tmpfs rw",
            "5 4 0:5 / /run/c rw - tmpfs tmpfs rw",
        ]
    )
    expected = {"/etc": False, "/run": True, "/run/x": True, "/run/a b/y": True, "/run/c/z": False}
    table = MountTable(mountinfo)
    assert {path: table.is_followed(Path(path)) for path in expected} == expected


def test_a_loop_of_symlinks_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        resolve(tmp_path / "a" / "x")
