"""`vhostfs registry serve` as a process: what it says, how it ends, what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from vhostfs.__main__ import main

COMMAND = [sys.executable, "-m", "vhostfs", "registry", "serve"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_it_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    command = [*COMMAND, str(tmp_path / "store"), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = line.removeprefix("listening on ").strip()
            with urllib.request.urlopen(f"http://{address}/v2/") as answer:
                assert answer.status == 200
            second = subprocess.run(command, capture_output=True, text=True)
            assert second.returncode == 1 and "is served by another process" in second.stderr
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
            assert (process.returncode, out, err) == (0, "", "")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--listen", "nowhere"], 2, "'nowhere' is not HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], 2, "is not HOST:PORT"),
        (["--listen", "192.0.2.1:5000"], 1, "cannot listen on 192.0.2.1:5000"),
    ],
)
def test_where_it_cannot_listen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    assert main(["registry", "serve", str(tmp_path / "store"), *words]) == status
    assert said in capsys.readouterr().err


def test_a_directory_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["registry", "serve", str(tmp_path / "file")]) == 1
    assert f"{tmp_path}/file" in capsys.readouterr().err
