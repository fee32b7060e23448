"""nydusd's command line, as Kata's runtimes, their documentation and people write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostfs.nydusd.arguments import Arguments, NotServed, parse_arguments

GO = "virtiofs --log-level info --apisock /api --sock /vu".split()  # noqa: SIM905 (as it is typed)
RUST = "virtiofs --hybrid-mode --log-level info --apisock api.sock --sock vu.sock".split()  # noqa: SIM905


def parse(line: str) -> Arguments:
    return parse_arguments(line.split())


@pytest.mark.parametrize("line", [GO, RUST])
def test_both_runtimes(line: list[str]) -> None:
    arguments = parse_arguments(line)
    assert arguments.log_level == "info"
    assert (arguments.apisock, arguments.sock) == (line[-3], line[-1])
    assert arguments.bootstrap is arguments.config is arguments.shared_dir is None
    assert arguments.rlimit_nofile == 1_000_000 and arguments.log_rotation_size == 0
    assert arguments.ignored == ()


def test_global_options_stand_before_or_after() -> None:
    before = parse("--apisock /a -l debug virtiofs --sock /v")
    after = parse("virtiofs --sock /v --apisock /a -l debug")
    assert vars(before) == vars(after)
    assert before.apisock == "/a" and before.log_level == "debug"


def test_the_last_of_a_repeated_option_counts() -> None:
    assert parse("virtiofs --sock /1 --log-level info --sock /2 --log-level=warn").sock == "/2"
    assert parse("virtiofs --sock /1 --log-level info --log-level warn").log_level == "warn"
    assert parse("-l error virtiofs --sock /1 -l warn").log_level == "warn"


def test_flags_of_virtiofsd_are_taken_and_told_once() -> None:
    """The defaults of both runtimes, what their documentation adds, and the snapshotter's own."""
    line = "virtiofs --sock /v --thread-pool-size=1 --announce-submounts -o announce_submounts,xattr"
    line += " --announce-submounts --threads 4 --cache=auto --sandbox none --syslog --posix-acl --xattr"
    line += " --thread-num 4 --failover-policy none --backend-source /x"
    assert parse(line).ignored == (
        "--thread-pool-size=1",
        "--announce-submounts",
        "-o=announce_submounts",
        "-o=xattr",
        "--threads=4",
        "--cache=auto",
        "--sandbox=none",
        "--syslog",
        "--posix-acl",
        "--xattr",
        "--thread-num=4",
        "--failover-policy=none",
        "--backend-source=/x",
    )


def test_all_that_is_honoured() -> None:
    arguments = parse(
        "virtiofs --sock /v -B /boot -C /config -m /image --prefetch-files /list --id 7 --supervisor /s "
        "-L /log --log-rotation-size 100 --rlimit-nofile 0"
    )
    assert (arguments.bootstrap, arguments.config) == (Path("/boot"), Path("/config"))
    assert arguments.prefetch_files == Path("/list") and arguments.virtual_mountpoint == "/image"
    assert (arguments.id, arguments.supervisor) == ("7", "/s")
    assert arguments.log_file == Path("/log")
    assert arguments.log_rotation_size == 100 and arguments.rlimit_nofile == 0
    assert arguments.inode_file_handles == "prefer"
    assert parse("virtiofs --sock /v --inode-file-handles=never").inode_file_handles == "never"
    assert parse("virtiofs --sock /v -s /dir").shared_dir == Path("/dir")
    assert parse("virtiofs --sock /v -B /boot -D /dir").localfs_dir == Path("/dir")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("virtiofs", "--sock"),
        ("virtiofs --sock /v --frobnicate 3", "--frobnicate: not supported"),
        ("virtiofs --sock /v --upgrade", "--upgrade: not supported"),
        ("virtiofs --sock /v --source=/x", "--source=/x: not supported"),
        ("virtiofs --sock /v -o source=/x", "-o source=/x: not supported"),
        ("virtiofs --sock /v -o xattr,modcaps=+sys_admin", "-o modcaps=+sys_admin: not supported"),
        ("virtiofs --sock /v --apiso /a", "--apiso: not supported"),
        ("virtiofs --sock /v word", "word: not supported"),
        ("virtiofs --sock /v --inode-file-handles=always", "--inode-file-handles: invalid choice: 'always'"),
        ("virtiofs --sock /v -o inode_file_handles=never", "-o inode_file_handles=never: not supported"),
        ("virtiofs --sock /v --log-level loud", "--log-level: invalid choice: 'loud'"),
        ("virtiofs --sock /v --rlimit-nofile many", "'many' is not a number"),
        ("virtiofs --sock /v -B /b -s /d", "--bootstrap and --shared-dir exclude each other"),
        ("virtiofs --sock /v -B /b -C /c -D /d", "--config and --localfs-dir exclude each other"),
        ("virtiofs --sock /v --id 3", "--id needs --supervisor"),
        ("virtiofs --sock /v --supervisor 3", "--supervisor needs --id"),
        ("virtiofs --sock /v --prefetch-files /x", "--prefetch-files needs --bootstrap"),
        ("nbd --sock /v", "invalid choice: 'nbd'"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(line)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("vhostfs-nydusd: ") and error.count("\n") == 1


def test_fuse_as_the_snapshotter_writes_it() -> None:
    line = "fuse --thread-num 4 --config /c --bootstrap /b --mountpoint /m --apisock /a --log-level info"
    given = parse_arguments([*line.split(), "--failover-policy", "none", "--backend-source", "/s/api"])
    assert (given.mode, given.fuse_threads, given.mountpoint) == ("fuse", 4, Path("/m"))
    assert given.failover_policy == "none" and not given.upgrade and not given.writable
    assert parse_arguments(line.split()[1:]).mode == "fuse"  # nydusify's checker names no mode


def test_singleton_says_what_to_use_instead() -> None:
    with pytest.raises(NotServed, match="fusedev"):
        parse_arguments(["singleton", "--fscache", "/cache", "--apisock", "/a"])


@pytest.mark.parametrize("line", ["--config /c --log-level info", ""])
def test_no_mode_makes_no_sense(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(line.split())
    assert ended.value.code == 2 and "fuse or virtiofs" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--help", "virtiofs --help", "-h"])
def test_help_says_what_there_is(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(line)
    assert caught.value.code == 0
    assert "--apisock" in capsys.readouterr().out
