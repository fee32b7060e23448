"""`vhostfs serve` as a process: its sockets, its signals, its exit status and what it says."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rafs.prefetch.options import PrefetchOptions
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.test_daemon import Guest
from vhostfs.cli_options import prefetch_of
from vhostfs.cli_serve import add_parser

#: It ends within a second; the bound is for a loaded machine.
PATIENCE_S = 20


@contextmanager
def serving(
    image: BuiltImage, where: Path, *arguments: str | Path, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[str]]:
    """The process, once it has said that it serves."""
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--bootstrap", image.bootstrap]
    command += ["--blob-dir", image.blob_dir, "--cache-dir", where / "cache", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=pass_fds)
    assert process.stderr
    try:
        for line in process.stderr:
            if "serving" in line:
                break
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def config_of(backend: object, work_dir: Path | None = None, **more: object) -> str:
    """A configuration of nydusd's."""
    cache = {"type": "blobcache", "filecache": {"work_dir": str(work_dir)}}
    return json.dumps({"version": 2, "backend": backend, "cache": cache, **more})


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(PATIENCE_S)


def test_serves_one_vmm_after_the_other_until_sigterm(image: BuiltImage, tmp_path: Path) -> None:
    path, counters = tmp_path / "sock", tmp_path / "counters"
    with serving(image, tmp_path, "--socket", path, "--statistics", counters) as process:
        for _ in range(2):
            guest = Guest(str(path))
            assert guest.read(b"/big") == (image.source / "big").read_bytes()
            guest.close()
        assert end(process) == 0
    assert not path.exists()
    assert json.loads(counters.read_text())["fetch_fetched_chunks"] == 17


def test_takes_an_inherited_listening_socket(image: BuiltImage, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with serving(
            image, tmp_path, "--fd", str(listener.fileno()), pass_fds=[listener.fileno()]
        ) as process:
            guest = Guest(str(path))
            assert guest.read(b"/dir/file1") == b"content 1\n"
            guest.close()
            assert end(process, signal.SIGINT) == 0


def test_serves_many_request_queues(image: BuiltImage, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with serving(image, tmp_path, "--socket", path, "--num-request-queues", "4") as process:
        guest = Guest(str(path), queues=4)
        assert guest.frontend.queue_num == 5
        big = guest.fuse.walk(b"/big")
        reads = [
            (fuse, fuse.submit_read(big.nodeid, at << 16, 65536)) for at, fuse in enumerate(guest.clients)
        ]
        assert (
            b"".join(fuse.wait(unique) for fuse, unique in reads)
            == (image.source / "big").read_bytes()[: 4 << 16]
        )
        guest.close()
        assert end(process) == 0


def test_a_killed_daemon_leaves_a_socket_that_its_successor_replaces(
    image: BuiltImage, tmp_path: Path
) -> None:
    path = tmp_path / "sock"
    with serving(image, tmp_path, "--socket", path) as process:
        end(process, signal.SIGKILL)
    assert path.is_socket()
    with serving(image, tmp_path, "--socket", path) as process:
        guest = Guest(str(path))
        assert guest.read(b"/dir/file1") == b"content 1\n"
        guest.close()
        assert end(process) == 0


def test_a_socket_in_use_is_refused(image: BuiltImage, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with serving(image, tmp_path, "--socket", path), serving(image, tmp_path, "--socket", path) as second:
        assert second.wait(PATIENCE_S) == 1


def test_a_bad_start_is_one_line_and_status_1(image: BuiltImage, tmp_path: Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "vhostfs",
        "serve",
        "--socket",
        tmp_path / "sock",
        "--blob-dir",
        tmp_path,
    ]
    command += ["--cache-dir", tmp_path / "cache", "--bootstrap", os.devnull]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 1
    assert (
        result.stderr
        == "vhostfs serve: /dev/null: not a bootstrap: not a regular file of 8192 bytes or more\n"
    )


def test_a_configuration_says_where_blobs_and_cache_are(image: BuiltImage, tmp_path: Path) -> None:
    path, config = tmp_path / "sock", tmp_path / "config.json"
    backend = {"type": "localfs", "localfs": {"dir": str(image.blob_dir)}}
    config.write_text(config_of(backend, tmp_path / "of config", unknown=1))
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--bootstrap", image.bootstrap]
    command += ["--config", config, "--socket", path]
    given: list[str | Path] = ["--cache-dir", tmp_path / "given"]
    for more, cache in (([], "of config"), (given, "given")):
        with subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            said = next(line for line in process.stderr if "ignored" in line)
            assert f"{config}: fields that are unknown here and ignored: unknown" in said
            while "serving" not in process.stderr.readline():
                assert process.poll() is None
            guest = Guest(str(path))
            assert guest.read(b"/dir/file1") == b"content 1\n"
            guest.close()
            assert end(process) == 0
        assert list((tmp_path / cache).glob("*.blob.data"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "config: the configuration is no JSON"),
        ("{}", "config: device: must be given"),
        ('{"version": 2}', "config: the configuration has no back-end"),
        (
            config_of({"type": "s3", "s3": {"region": "r", "bucket_name": "b", "endpoint": "?"}}),
            "vhostfs serve: endpoint: it must be a host",
        ),
        (None, "config: No such file"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    image: BuiltImage, tmp_path: Path, text: str | None, reason: str
) -> None:
    config = tmp_path / "config"
    if text is not None:
        config.write_text(text)
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--socket", tmp_path / "sock"]
    command += ["--bootstrap", image.bootstrap, "--config", config, "--cache-dir", tmp_path / "cache"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 1 and reason in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "configured", "expected"),
    [
        ([], None, None),
        ([], PrefetchOptions(everything=True), PrefetchOptions(everything=True)),
        (["--prefetch", "none"], PrefetchOptions(), None),
        (["--prefetch", "hints"], PrefetchOptions(everything=True, workers=3), PrefetchOptions(workers=3)),
        (["--prefetch", "all"], None, PrefetchOptions(everything=True)),
        (["--prefetch-bandwidth", "1MiB"], PrefetchOptions(), PrefetchOptions(bandwidth_limit=1 << 20)),
    ],
)
def test_what_to_fetch_ahead(
    words: list[str], configured: PrefetchOptions | None, expected: PrefetchOptions | None
) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["serve", "--fd", "0", "--bootstrap", "b", "--config", "c", *words])
    assert prefetch_of(arguments, configured) == expected
