"""The systemd unit of `vhostfs serve`: its command line, its directories, what it leaves to the sandbox."""

from __future__ import annotations

import argparse
import configparser
import os
import shlex
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.conftest import REPO
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.test_cli_serve import PATIENCE_S
from tests.vhostfs.test_daemon import Guest
from vhostfs import cli_serve
from vhostfs.defaults import default_cache_dir

UNIT = REPO / "kata-config" / "systemd" / "vhostfs@.service"


def service() -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    assert set(parser.sections()) == {"Unit", "Service", "Install"}
    return dict(parser["Service"])


def command(environment: dict[str, str]) -> list[str]:
    """ExecStart as systemd expands it: ${X} to one word, $X to words."""
    words: list[str] = []
    for word in service()["ExecStart"].split():
        if word.startswith("$") and not word.startswith("${"):
            words += shlex.split(environment[word[1:]])
            continue
        for name, value in environment.items():
            word = word.replace(f"${{{name}}}", value)
        assert "$" not in word
        words.append(word)
    return words


def test_its_command_line_is_one_that_serve_takes() -> None:
    words = command(
        {
            "RUNTIME_DIRECTORY": "/run/vhostfs/web",
            "CACHE_DIRECTORY": "/var/cache/vhostfs",
            "BOOTSTRAP": "/srv/images/web.boot",
            "BLOB_DIR": "/srv/images/blobs",
            "EXTRA_ARGS": "--num-request-queues 4",
        }
    )
    assert Path(words[0]).name == "vhostfs" and words[1] == "serve"
    parser = argparse.ArgumentParser()
    cli_serve.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(words[1:])
    assert arguments.socket == "/run/vhostfs/web/virtiofs.sock"
    assert arguments.num_request_queues == 4
    assert arguments.cache_dir == default_cache_dir()


def test_its_directories_are_made_by_systemd() -> None:
    unit = service()
    assert unit["RuntimeDirectory"] == "vhostfs/%i" and unit["CacheDirectory"] == "vhostfs"
    assert unit["EnvironmentFile"] == "/etc/vhostfs/%i.conf"


def test_its_capabilities_are_enough_for_the_sandbox(image: BuiltImage, tmp_path: Path) -> None:
    """As systemd starts it: nothing but the bounding set of the unit, and no_new_privs."""
    unit = service()
    assert unit["NoNewPrivileges"] == "yes"
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in unit["CapabilityBoundingSet"].split())
    limited = ["setpriv", "--no-new-privs", "--bounding-set", f"-all,{kept}", "--inh-caps", "-all"]
    words = command(
        {
            "RUNTIME_DIRECTORY": str(tmp_path),
            "CACHE_DIRECTORY": str(tmp_path / "cache"),
            "BOOTSTRAP": str(image.bootstrap),
            "BLOB_DIR": str(image.blob_dir),
            "EXTRA_ARGS": "--log-level debug",
        }
    )
    run = [*limited, sys.executable, "-m", "vhostfs", *words[1:]]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with subprocess.Popen(run, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        log = ""
        while " serving " not in log:
            line = process.stderr.readline()
            assert line, log
            log += line
        assert log.count("'on'") == 5
        with closing(Guest(str(tmp_path / "virtiofs.sock"))) as guest:
            assert guest.read(b"/dir/file1") == b"content 1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
