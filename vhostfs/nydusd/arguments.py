"""nydusd's command line (contract 5.1, 5.2), as far as it is served here: words to `Arguments`, or exit 2.

Global options may stand before or after the sub-command, and of a repeated option the last one counts, as
Kata's configuration pages rely on. Flags of virtiofsd that Kata's defaults bring along are taken and have no
effect; whatever else we do not honour is refused by name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vhostfs.nydusd.version import version_text
from vhostfs.sandbox_options import SandboxOptions, check_parts
from vhostfs.sandbox_options import add_arguments as add_sandbox_arguments

LOG_LEVELS = ("trace", "debug", "info", "warn", "error")
#: how a host directory's inodes are kept: native.dataplane.FileHandles
FILE_HANDLES = ("never", "prefer", "mandatory")
DEFAULT_RLIMIT_NOFILE = 1_000_000

#: flags of virtiofsd that Kata's default virtio_fs_extra_args and its documentation have, without a value...
_VIRTIOFSD_FLAGS = ("--announce-submounts", "--syslog", "--xattr", "--posix-acl")
#: ... and with one
_VIRTIOFSD_OPTIONS = ("--thread-pool-size", "--threads", "--cache", "--sandbox")
#: what -o may say: names of those flags, with or without a value
_VIRTIOFSD_O = {"announce_submounts", "cache", "sandbox", "xattr", "posix_acl"}
#: options of nydusd's other modes, which clients give to all of them (contract, gotchas 21 and 22)
_OTHER_MODES = ("--thread-num", "--fuse-threads", "--failover-policy", "--backend-source")
#: what becomes of requests that a dead predecessor had read
FAILOVER_POLICIES = ("none", "resend", "flush")
MAX_FUSE_THREADS = 1024
_USE_FUSEDEV = (
    "the kernel's fscache on-demand mode, which Linux 6.12 gave up, is not served: "
    'let the snapshotter use fs_driver = "fusedev"'
)


class Arguments(argparse.Namespace):
    """What was asked for. `ignored` names options that have no effect. Not to be changed."""

    sock: str
    mountpoint: Path
    fuse_threads: int = 4
    failover_policy: str = "resend"
    writable: bool = False
    upgrade: bool = False
    apisock: str | None = None
    config: Path | None = None
    bootstrap: Path | None = None
    localfs_dir: Path | None = None
    shared_dir: Path | None = None
    inode_file_handles: str = "prefer"
    virtual_mountpoint: str = "/"
    prefetch_files: Path | None = None
    trace: str = ""
    id: str | None = None
    supervisor: str | None = None
    log_level: str = "info"
    log_file: Path | None = None
    log_rotation_size: int = 0
    rlimit_nofile: int = DEFAULT_RLIMIT_NOFILE
    ignored: tuple[str, ...] = ()
    no_sandbox: Sequence[frozenset[str]] = ()
    sandbox_readable: Sequence[Path] = ()
    sandbox_writable: Sequence[Path] = ()
    mode: str | None = None


class NotServed(Exception):
    """A mode of nydusd that we do not have; the text says what to use instead."""


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse. Raises NotServed, and SystemExit: 2 with a message when it makes no sense, 0 after --help."""
    parser = _Parser(
        prog="vhostfs-nydusd",
        description="nydusd's command line: serves RAFS images and host directories to one virtual machine "
        "(virtiofs), or mounts them on this host (fuse).",
        parents=[_global_options()],
        allow_abbrev=False,
    )
    version_help = "say which build this is"
    parser.add_argument(
        "-V", "--version", action=_Version, nargs=0, dest=argparse.SUPPRESS, help=version_help
    )
    modes = parser.add_subparsers(dest="mode", metavar="MODE")
    virtiofs = modes.add_parser(
        "virtiofs",
        help="the vhost-user back-end of a virtio-fs device",
        parents=[_global_options()],
        allow_abbrev=False,
    )
    _add_virtiofs_options(virtiofs)
    fuse = modes.add_parser(
        "fuse", help="a mount on this host", parents=[_global_options()], allow_abbrev=False
    )
    _add_fuse_options(fuse)
    modes.add_parser("singleton", help=argparse.SUPPRESS, add_help=False, prefix_chars="\0")
    given, rest = parser.parse_known_args(_with_mode(argv), Arguments())
    if given.mode is None:
        parser.error("no mode is given: fuse or virtiofs")
    if given.mode == "singleton":
        raise NotServed(_USE_FUSEDEV)
    mode = fuse if given.mode == "fuse" else virtiofs
    if rest:
        options = [word for word in rest if word.startswith("-")] or rest
        parser.error(f"{', '.join(options)}: not supported by vhostfs-nydusd {given.mode}")
    if given.mode == "virtiofs" and given.upgrade:
        parser.error(
            "--upgrade: not supported by vhostfs-nydusd virtiofs, whose sessions cannot be taken over"
        )
    _check_together(mode, vars(given))
    try:
        check_parts(SandboxOptions.of(given).off)
    except ValueError as error:
        mode.error(str(error))
    return given


_NEEDED = (
    ("id", "supervisor"),
    ("supervisor", "id"),
    ("prefetch_files", "bootstrap"),
    ("trace", "bootstrap"),
)


def _with_mode(argv: Sequence[str]) -> list[str]:
    """nydusd's old way of saying fuse is to name no mode."""
    words = list(argv)
    if any(word in ("-M", "--mountpoint") or word.startswith("--mountpoint=") for word in words) and not any(
        word in ("fuse", "virtiofs", "singleton") for word in words
    ):
        return ["fuse", *words]
    return words


def _check_together(parser: argparse.ArgumentParser, values: dict[str, Any]) -> None:
    for one, other in (("bootstrap", "shared_dir"), ("config", "localfs_dir")):
        if one in values and other in values:
            parser.error(f"{_flag(one)} and {_flag(other)} exclude each other")
    for option, needed in (
        ("id", "supervisor"),
        ("supervisor", "id"),
        ("prefetch_files", "bootstrap"),
        ("trace", "bootstrap"),
    ):
        if option in values and needed not in values:
            parser.error(f"{_flag(option)} needs {_flag(needed)}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong without ten lines of usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"vhostfs-nydusd: {message}; see {self.prog} --help\n")


def _global_options() -> _Parser:
    """Without defaults: those of the sub-command's copy would undo what stood before it."""
    options = _Parser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    add = options.add_argument
    add("-A", "--apisock", metavar="PATH", help="serve the HTTP API on this Unix socket")
    add("-C", "--config", metavar="FILE", type=Path, help="configuration, JSON or TOML, of --bootstrap")
    add("--id", help="told by the API; needs --supervisor")
    add("--supervisor", metavar="PATH", help="told by the API; needs --id")
    add("-l", "--log-level", choices=LOG_LEVELS, help="(info)")
    add("-L", "--log-file", metavar="PATH", type=Path, help="log here and not to stderr")
    add("--log-rotation-size", metavar="MIB", type=_count, help="size at which a log file is rotated (0)")
    add(
        "--rlimit-nofile",
        metavar="N",
        type=_count,
        help=f"open files that are allowed, 0: leave it ({DEFAULT_RLIMIT_NOFILE})",
    )
    add("--upgrade", action="store_true", help="mount nothing: wait to take a session over (fuse)")
    return options


def _add_fuse_options(parser: argparse.ArgumentParser) -> None:
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("-M", "--mountpoint", metavar="DIR", type=Path, required=True, help="mount here")
    threads = "threads that answer (4)"
    add("--fuse-threads", "--thread-num", metavar="N", type=_threads, dest="fuse_threads", help=threads)
    add(
        "--failover-policy",
        choices=FAILOVER_POLICIES,
        help="requests that a predecessor left unanswered are asked again, or not (resend)",
    )
    add("--writable", action="store_true", help="mount it so that it can be written to")
    _add_fs_options(parser)
    add("--backend-source", action=_Ignore, help=argparse.SUPPRESS)
    add_sandbox_arguments(parser)


def _add_virtiofs_options(parser: argparse.ArgumentParser) -> None:
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("--sock", metavar="PATH", required=True, help="vhost-user socket to listen on")
    _add_fs_options(parser)
    add("--hybrid-mode", action=_Ignore, nargs=0, quiet=True, help="no effect: every session is hybrid")
    for flag in _VIRTIOFSD_FLAGS:
        add(flag, action=_Ignore, nargs=0, help=argparse.SUPPRESS)
    for option in (*_VIRTIOFSD_OPTIONS, *_OTHER_MODES):
        add(option, action=_Ignore, help=argparse.SUPPRESS)
    add_sandbox_arguments(parser)
    add("-o", action=_IgnoreKnownOnly, help=argparse.SUPPRESS)


def _add_fs_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-B", "--bootstrap", metavar="FILE", type=Path, help="serve this image")
    add("-D", "--localfs-dir", metavar="DIR", type=Path, help="its blobs lie here, and so does the cache")
    add("-s", "--shared-dir", metavar="DIR", type=Path, help="serve this directory of the host")
    add(
        "--inode-file-handles",
        choices=FILE_HANDLES,
        help="keep inodes of host directories as file handles, so that no mount is held busy, and not as "
        "descriptors (prefer)",
    )
    add("-m", "--virtual-mountpoint", metavar="PATH", help="where in the device (/)")
    add("--prefetch-files", metavar="FILE", type=Path, help="paths to fetch ahead, one a line")
    add("--trace", metavar="FILE|auto", help="what an earlier run read: fetched ahead, in that order")


class _Ignore(argparse.Action):
    """Takes an option, and remembers that it had no effect."""

    def __init__(self, *args: Any, quiet: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"dest": "ignored"})
        self._quiet = quiet

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if not self._quiet:
            text = f"{option_string}={values}" if isinstance(values, str) else str(option_string)
            before: tuple[str, ...] = getattr(namespace, "ignored", ())
            namespace.ignored = before if text in before else (*before, text)


class _IgnoreKnownOnly(_Ignore):
    """-o of virtiofsd: a list with commas."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for word in str(values).split(","):
            if word.partition("=")[0] not in _VIRTIOFSD_O:
                parser.error(f"-o {word}: not supported by vhostfs-nydusd virtiofs")
            super().__call__(parser, namespace, word, option_string)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(version_text(), end="")
        parser.exit(0)


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_FUSE_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_FUSE_THREADS}")
    return min(int(text), 32)  # FUSEDEV_MAX_CHANNELS: more do not help


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)
