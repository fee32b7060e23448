"""`vhostfs mount` and `vhostfs umount`: real mounts, in the background and in the foreground."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rafs.oci.layout import Layout
from tests.conftest import REPO
from tests.fakes.oci_image import EXPECTED, LAYERS, add_image
from tests.fakes.served_registry import registry_served
from tests.native.rig import BuiltImage
from tests.trees import describe, differences
from vhostfs.fuse_mount import FuseMountError, mounted_at, parse_options, umount

PATIENCE_S = 20


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    top = tmp_path_factory.mktemp("image")
    folder = top / "source/usr/bin"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"file{number}").write_bytes(os.urandom(number * 1000))
    (folder / "link").symlink_to("file3")
    return BuiltImage.build(top, chunk_size=64 << 10, compressor="zstd")


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    yield mountpoint
    while mounted_at(mountpoint) is not None:
        with suppress(FuseMountError):
            umount(mountpoint, lazy=True)


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPO), "XDG_CACHE_HOME": str(tmp_path / "xdg")}


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "vhostfs", *map(str, words)]


def run(tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE_S
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_in_the_background_until_it_is_unmounted(image: BuiltImage, tmp_path: Path, where: Path) -> None:
    options = ("--blob-dir", image.blob_dir, "--cache-dir", tmp_path / "cache")
    statistics = tmp_path / "statistics"
    done = run(tmp_path, "mount", image.bootstrap, where, *options, "--statistics", statistics)
    assert done.returncode == 0, done.stderr
    assert differences(describe(image.source), describe(where)) == []
    assert run(tmp_path, "umount", where).returncode == 0
    until(statistics.exists)
    until(lambda: statistics.stat().st_size > 0)
    figures = json.loads(statistics.read_text())
    assert figures["requests"] > 20 and figures["fetch_failed_chunks"] == 0
    refused = run(tmp_path, "umount", where)
    assert refused.returncode == 1 and "nothing is mounted there" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_in_the_foreground_until_a_signal(
    image: BuiltImage, tmp_path: Path, where: Path, number: signal.Signals
) -> None:
    words = command("mount", "-f", image.bootstrap, where, "--blob-dir", image.blob_dir)
    with subprocess.Popen(words, env=environment(tmp_path), stderr=subprocess.PIPE) as process:
        until(lambda: mounted_at(where) is not None)
        assert (where / "usr/bin/file7").read_bytes() == (image.source / "usr/bin/file7").read_bytes()
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == (-number if number == signal.SIGKILL else 0), errors
    until(lambda: mounted_at(where) is None)


def test_what_cannot_be_mounted_says_so(image: BuiltImage, tmp_path: Path, where: Path) -> None:
    blobs = ("--blob-dir", image.blob_dir)
    for words, text in (
        ((image.bootstrap, where), "give --blob-dir or --config"),
        ((image.bootstrap, tmp_path / "nowhere", *blobs), "nowhere: No such file"),
        ((image.bootstrap, where, *blobs, "-o", "rw"), "-o rw: an image cannot be changed"),
        ((image.bootstrap, where, *blobs, "-o", "noatime,frobnicate"), "-o frobnicate: not an option"),
        ((tmp_path / "no-such-layout", where), "no-such-layout"),
        ((image.source / "usr/bin/file9", where, *blobs), "file9"),
    ):
        done = run(tmp_path, "mount", *words)
        assert done.returncode == 1 and text in done.stderr, done.stderr
        until(lambda: mounted_at(where) is None)


def test_an_image_in_a_layout(tmp_path: Path, where: Path) -> None:
    """Converted, and mounted by its name: the layout is where its blobs are."""
    add_image(Layout(tmp_path / "oci"), LAYERS, tag="v1")
    done = run(tmp_path, "convert", f"{tmp_path}/oci:v1", f"{tmp_path}/rafs:v1")
    assert done.returncode == 0, done.stderr
    refused = run(tmp_path, "mount", f"{tmp_path}/oci:v1", where)
    assert refused.returncode == 1 and "vhostfs convert" in refused.stderr
    done = run(tmp_path, "mount", f"{tmp_path}/rafs:v1", where)
    assert done.returncode == 0, done.stderr
    assert {name: (where / name).read_bytes() for name in EXPECTED} == EXPECTED


def test_an_image_at_a_registry(tmp_path: Path, where: Path) -> None:
    add_image(Layout(tmp_path / "oci"), LAYERS, tag="v1")
    (tmp_path / "registry").mkdir()
    with registry_served(tmp_path / "registry") as host:
        done = run(tmp_path, "convert", f"{tmp_path}/oci:v1", f"{host}/web:v1")
        assert done.returncode == 0, done.stderr
        done = run(tmp_path, "mount", f"{host}/web:v1", where)
        assert done.returncode == 0, done.stderr
        assert {name: (where / name).read_bytes() for name in EXPECTED} == EXPECTED
        assert run(tmp_path, "umount", where).returncode == 0


def test_options() -> None:
    options = parse_options(["ro,noexec", "fsname=image,allow_other,defaults"])
    assert options.source == "image" and options.allow_other and options.flags == 1 | 2 | 4 | 8
    assert not parse_options(["rw"], writable=True).flags & 1


def test_what_is_mounted_is_found_by_its_path_alone(where: Path) -> None:
    proc = mounted_at(Path("/proc"))
    assert proc is not None and proc.fs_type == "proc"
    assert mounted_at(where) is None
