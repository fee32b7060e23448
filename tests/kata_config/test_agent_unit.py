"""The systemd units of the agent: a command line that it takes, and the socket where workers look for it."""

from __future__ import annotations

import argparse
import configparser
from pathlib import Path

from tests.conftest import REPO
from vhostfs import cli_agent
from vhostfs.agent.place import FOLDER, SOCKET
from vhostfs.sandbox_nydusd import SNAPSHOTTER_ROOTS

UNITS = REPO / "kata-config" / "systemd"


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser


def test_the_service_and_its_socket_are_of_one_directory() -> None:
    words = unit("vhostfs-agent.service")["Service"]["ExecStart"].split()
    assert Path(words[0]).name == "vhostfs" and words[1] == "agent"
    parser = argparse.ArgumentParser()
    cli_agent.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(words[1:])
    assert arguments.cache_dir in [root / "cache" for root in SNAPSHOTTER_ROOTS]
    socket = unit("vhostfs-agent.socket")["Socket"]
    assert Path(socket["ListenSequentialPacket"]) == arguments.cache_dir / FOLDER / SOCKET
    assert socket["SocketMode"] == "0600"
    assert unit("vhostfs-agent.service")["Unit"]["Requires"] == "vhostfs-agent.socket"
