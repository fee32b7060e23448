"""`vhostfs serve` in its sandbox: all that it says and does, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.test_cli_serve import PATIENCE_S, end, serving
from tests.vhostfs.test_daemon import Guest


def test_every_thread_is_under_it_while_a_guest_reads(image: BuiltImage, tmp_path: Path) -> None:
    """Cold and warm, on many queues; then nothing is left that an intruder could use."""
    path = tmp_path / "sock"
    with serving(image, tmp_path, "--socket", path, "--num-request-queues", "4") as process:
        with closing(Guest(str(path), queues=4)) as guest:
            for _ in ("cold", "warm"):
                assert guest.read(b"/big") == (image.source / "big").read_bytes()
            threads = list(Path(f"/proc/{process.pid}/task").iterdir())
            assert len(threads) > 5
            for thread in threads:
                fields = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
                assert fields["Seccomp"] == "2" and fields["NoNewPrivs"] == "1"
                for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                    assert int(fields[name], 16) == 0
        root = Path(f"/proc/{process.pid}/root")
        tops = {path.parts[1] for path in (image.source, tmp_path, Path.cwd())}
        assert {entry.name for entry in root.iterdir()} == {"dev", "proc", *tops}
        assert end(process) == 0


def test_no_code_is_loaded_once_it_is_entered(image: BuiltImage, tmp_path: Path) -> None:
    """Modules could not be; so all have to be there before."""
    script = """
import sys
from vhostfs import sandbox
from vhostfs.__main__ import main
apply, before = sandbox.apply_sandbox, set()
def entered(policy):
    report = apply(policy)
    before.update(sys.modules)
    return report
sandbox.apply_sandbox = entered
status = main(sys.argv[1:])
print(status, sorted(set(sys.modules) - before))
"""
    path = tmp_path / "sock"
    command: list[str | Path] = [sys.executable, "-c", script, "serve", "--bootstrap", image.bootstrap]
    command += ["--blob-dir", image.blob_dir, "--cache-dir", tmp_path / "cache", "--socket", path]
    command += ["--statistics", tmp_path / "counters", "--log-level", "debug"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(line)
        if "serving" in line:
            break
    with closing(Guest(str(path))) as guest:
        assert guest.read(b"/big") == (image.source / "big").read_bytes()
    process.terminate()
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert out == "0 []\n"
    assert (tmp_path / "counters").exists()
    assert any("sandbox: {'parts': {'mounts': 'on', 'capabilities': 'on'" in line for line in log)


def test_paths_may_be_relative(image: BuiltImage, tmp_path: Path) -> None:
    relative = os.path.relpath
    command: list[str] = [
        sys.executable,
        "-m",
        "vhostfs",
        "serve",
        "--socket",
        "sock",
        "--statistics",
        "counters",
    ]
    command += [
        "--bootstrap",
        relative(image.bootstrap, tmp_path),
        "--blob-dir",
        relative(image.blob_dir, tmp_path),
    ]
    command += ["--cache-dir", "deep/cache"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "serving" not in process.stderr.readline():
            assert process.poll() is None
        with closing(Guest(str(tmp_path / "sock"))) as guest:
            assert guest.read(b"/dir/file1") == b"content 1\n"
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "counters").exists() and not (tmp_path / "sock").exists()


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["--no-sandbox", "chroot"], 2, "'chroot' is no part of the sandbox"),
        (["--no-sandbox", "no-new-privs"], 2, "add --no-sandbox=landlock,seccomp"),
        (["--sandbox-readable", "/nonexistent"], 1, "--sandbox-readable /nonexistent: no such file"),
        (["--cache-dir", "/proc/cache"], 1, "cannot make the cache directory /proc/cache"),
    ],
)
def test_a_bad_start_says_what_is_wrong(
    image: BuiltImage, tmp_path: Path, words: list[str], status: int, reason: str
) -> None:
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--socket", tmp_path / "sock"]
    command += ["--bootstrap", image.bootstrap, "--blob-dir", image.blob_dir]
    command += ["--cache-dir", tmp_path / "cache", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == status and reason in result.stderr
    assert "Traceback" not in result.stderr
