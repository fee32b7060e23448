"""`vhostfs build` from the outside: options, output, exit status, signals."""

from __future__ import annotations

import argparse
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from tests import erofs
from tests.trees import describe, differences
from vhostfs.cli_build import add_parser

PROGRAM = """
import argparse, sys
from vhostfs.cli_build import add_parser
parser = argparse.ArgumentParser("vhostfs")
add_parser(parser.add_subparsers(required=True))
args = parser.parse_args()
sys.exit(args.run(args))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    (root / "text").write_bytes(b"text" * 100_000)
    (root / "same").write_bytes(b"text" * 100_000)
    (root / "link").symlink_to("text")
    return root


def arguments(source: Path, *options: str) -> list[str]:
    out = source.parent / "out"
    return [
        "build",
        str(source),
        "--bootstrap",
        str(out / "image.boot"),
        "--blob-dir",
        str(out / "blobs"),
        *options,
    ]


def main(*words: str) -> int:
    parser = argparse.ArgumentParser("vhostfs")
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(words)
    status: int = args.run(args)
    return status


def test_builds_and_says_what(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*arguments(source, "--compressor", "none", "--chunk-size", "64KiB", "--jobs", "2")) == 0
    (blob,) = (source.parent / "out" / "blobs").iterdir()
    with erofs.mounted(source.parent / "out" / "image.boot", blob) as point:
        assert differences(describe(source), describe(point)) == []
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0].startswith("source     4 entries, 4 inodes, 781.2 KiB of data, in ")
    assert lines[1] == f"bootstrap  {source.parent}/out/image.boot  20.0 KiB"
    # 6 whole chunks of the same words, and a shorter one, twice
    assert lines[2] == "chunks     14 of up to 64.0 KiB, 2 distinct, 710.6 KiB stored once only"
    assert lines[3].startswith(f"blob       {blob}  ")


def test_defaults(source: Path) -> None:
    """lz4_block, blake3 and 1 MiB, as the blob table tells."""
    assert main(*arguments(source)) == 0
    entry = (source.parent / "out" / "image.boot").read_bytes()[4096:]
    assert [int.from_bytes(entry[at : at + 4], "little") for at in (68, 76, 80)] == [1 << 20, 1, 0]


def test_tree_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").mkdir()
    assert main(*arguments(tmp_path / "source")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "blob       none: no file has data"


def test_failure_is_one_line_and_status_1(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*arguments(source / "nothing")) == 1
    assert capsys.readouterr() == ("", f"vhostfs build: '{source}/nothing' does not exist\n")


def test_warnings_go_to_stderr(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "listxattr", lambda path, follow_symlinks: ["system.other"])
    assert main(*arguments(source)) == 0
    assert capsys.readouterr().err == (
        "vhostfs build: warning: attribute 'system.other' cannot be stored in RAFS and was left out of "
        f"4 file(s), the first is '{source}'\n"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--chunk-size", "1MB"], "'1MB' is not a size; write bytes, or a number with KiB, MiB, GiB or TiB"),
        (["--compressor", "gzip"], "invalid choice: 'gzip'"),
        (["--fs-version", "4"], "invalid choice: 4"),
    ],
)
def test_wrong_words_are_usage_errors(
    source: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(*arguments(source, *words))
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_bar_on_a_terminal(source: Path) -> None:
    """stderr is a terminal, stdout is not: the summary stays clean."""
    leader, follower = pty.openpty()
    try:
        command = [sys.executable, "-c", PROGRAM, *arguments(source)]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            check=True,
        )
        os.set_blocking(leader, False)
        shown = os.read(leader, 1 << 16).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert "packing" in shown and "━" in shown
    assert done.stdout.startswith(b"source ") and b"\x1b" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_leaves_nothing(source: Path, number: signal.Signals) -> None:
    """The worker that reads the first file reports, and then stands still until stdin ends."""
    stopping = (
        "import sys; from rafs.build.source import SourceFile\n"
        "def read(self, offset, size): print('reading', flush=True); sys.stdin.read(); return bytes(size)\n"
        "SourceFile.read = read\n"
    )
    command = [sys.executable, "-c", stopping + PROGRAM, *arguments(source)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == b"reading\n"
        out = source.parent / "out"
        assert len(list(out.rglob(".vhostfs-build-*"))) == 2  # there is something to leave behind
        process.send_signal(number)
        process.stdin.close()
        assert b"Traceback" not in process.stderr.read()
        assert process.wait() == 128 + number
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_archives(source: Path) -> None:
    """A file and stdin give what the directory gives, but for whiteouts, which do not reach the image."""
    (source / ".wh.gone").touch()
    archive = source.parent / "source.tar.zst"
    packed = subprocess.run(["tar", "-c", "-C", str(source), "."], capture_output=True, check=True).stdout
    archive.write_bytes(zstandard.compress(packed))
    (source / ".wh.gone").unlink()
    for name, options in ((str(archive), []), (str(archive), ["--type", "tarzst"]), ("-", [])):
        with archive.open("rb") as file:
            command = arguments(source, *options, "--compressor", "none")
            command[1] = name
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, *command],
                stdin=file,
                capture_output=True,
                text=True,
            )
        assert (done.returncode, done.stderr) == (0, "")
        (blob,) = (source.parent / "out" / "blobs").iterdir()
        with erofs.mounted(source.parent / "out" / "image.boot", blob) as point:
            seen = describe(point)
        assert seen.keys() == {b".", b"text", b"same", b"link"}
        assert seen[b"text"].size == 400_000


def test_a_layer_on_a_parent_with_a_dictionary(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*arguments(source, "--compressor", "none")) == 0
    out = source.parent / "out"
    parent = out / "parent.boot"
    (out / "image.boot").rename(parent)
    upper = source.parent / "upper"
    upper.mkdir()
    (upper / ".wh.same").touch()
    (upper / "copy").write_bytes(b"text" * 100_000)
    (source.parent / "list").write_text("/copy\n/nowhere\n")
    options = ["--parent-bootstrap", str(parent), "--chunk-dict", f"bootstrap={parent}"]
    options += ["--whiteout-spec", "oci", "--prefetch-files", str(source.parent / "list")]
    capsys.readouterr()
    assert main(*arguments(upper, *options, "--compressor", "none")) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "vhostfs build: warning: '/nowhere' is to be prefetched, but is not in the image\n"
    )
    assert "blob       none: all chunks are in blobs of other images" in captured.out
    (blob,) = (out / "blobs").iterdir()
    with erofs.mounted(out / "image.boot", blob) as point:
        assert describe(point).keys() == {b".", b"text", b"link", b"copy"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prefetch-files", "/no/list"], "vhostfs build: '/no/list': No such file or directory\n"),
        (["--type", "targz"], "its compression is not gzip but none; leave the type to be detected\n"),
        (["--chunk-dict", "/no/boot"], "vhostfs build: cannot read bootstrap '/no/boot': No such file"),
    ],
)
def test_what_cannot_be_read(
    source: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    archive = source.parent / "a.tar"
    archive.write_bytes(bytes(1024))
    command = arguments(source, *words)
    command[1] = str(archive)
    assert main(*command) == 1
    assert said in capsys.readouterr().err
