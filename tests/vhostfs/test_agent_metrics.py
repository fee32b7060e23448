"""`vhostfs agent --metrics`: what an agent in its sandbox tells Prometheus of what it has fetched."""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.test_cli_serve import PATIENCE_S, end, serving
from tests.vhostfs.test_daemon import Guest
from vhostfs.cli_agent import address


def agent_command(cache_dir: Path, metrics: str) -> list[str]:
    command = [sys.executable, "-m", "vhostfs", "agent", "--cache-dir", str(cache_dir)]
    return [*command, "--idle-timeout", "never", "--metrics", metrics]


def test_an_agent_tells_what_it_fetched(image: BuiltImage, tmp_path: Path) -> None:
    command = agent_command(tmp_path / "cache", "127.0.0.1:0")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        said = ""
        while not (match := re.search(r"metrics on port (\d+)", said)):
            said = agent.stderr.readline()
            assert said
        path = tmp_path / "sock"
        with serving(image, tmp_path, "--socket", path) as process:
            guest = Guest(str(path))
            assert guest.read(b"/dir/file1") == b"content 1\n"
            with urlopen(f"http://127.0.0.1:{match[1]}/metrics", timeout=PATIENCE_S) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                text = answer.read().decode()
            guest.close()
            assert end(process) == 0
        labels = f'{{place="{image.blob_dir}",type="localfs"}}'
        reads = re.search(rf"^vhostfs_backend_reads_total{re.escape(labels)} ([0-9.]+)$", text, re.MULTILINE)
        assert reads is not None and float(reads[1]) > 0
        assert f'vhostfs_cache_bytes{{cache="{tmp_path / "cache"}"}}' in text
        agent.terminate()
        assert agent.wait(PATIENCE_S) == 0
        agent.stderr.read()


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        command = agent_command(tmp_path / "cache", where)
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 1
    assert f"vhostfs agent: --metrics {where}: Address already in use" in result.stderr


def test_addresses() -> None:
    assert address("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert address("[::1]:80") == ("::1", 80)
    for wrong in ("", "9464", ":9464", "host:", "host:port", "host:65536", "host:-1"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not HOST:PORT"):
            address(wrong)
