"""From arguments to a process that serves: its limits, its log, its sandbox, its end."""

from __future__ import annotations

import errno
import logging
import resource
import sys
from pathlib import Path

from vhostfs.nydusd import logs
from vhostfs.nydusd.arguments import Arguments
from vhostfs.nydusd.logs import ErrorHistory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vhostfs.nydusd.fuse_place import FusePlace

log = logging.getLogger(__name__)

#: what nydusd leaves to the rest of the machine, and the most it takes (contract 5.1)
RESERVED_FILES = 16_384
MAX_FILES = 1_000_000
FILE_MAX = Path("/proc/sys/fs/file-max")


def run(arguments: Arguments) -> int:
    """Serve until a signal or the API ends it: 0. 1 when it could not begin."""
    try:
        errors = logs.install(arguments.log_level, arguments.log_file, arguments.log_rotation_size)
        raise_file_limit(arguments.rlimit_nofile)
    except OSError as error:
        return _refuse(f"{error.filename or 'log'}: {error.strerror}", arguments)
    if arguments.ignored:
        log.warning("accepted without effect: %s", " ".join(arguments.ignored))
    if arguments.mode == "fuse":
        return _run_mounted(arguments, errors)
    return _serve(arguments, errors, None)


def _run_mounted(arguments: Arguments, errors: ErrorHistory) -> int:
    """Mount first, outside of the sandbox; what cannot be served is not left mounted."""
    from vhostfs.nydusd.fuse_place import FuseMountError, prepare

    try:
        place = prepare(arguments)
    except (FuseMountError, OSError) as error:
        return _refuse(str(error), arguments)
    status = _serve(arguments, errors, place)
    if status and place.fds:
        place.unmounter.umount()
    return status


def _serve(arguments: Arguments, errors: ErrorHistory, place: FusePlace | None) -> int:
    # No TLS where a guest is spoken to: the network is the agent's. asyncio goes without, which saves a
    # twentieth of the start and of the memory; uvloop could not.
    sys.modules["ssl"] = None  # type: ignore[assignment]
    from vhostfs.nydusd.confine import confine
    from vhostfs.nydusd.errors import ConfigError
    from vhostfs.sandbox_policy import SandboxError

    try:
        starter = confine(arguments)
    except ConfigError as error:
        return _refuse(f"{arguments.config}: {error}", arguments)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}", arguments)
    except SandboxError as error:
        return _refuse(str(error), arguments)
    # slow to import: after all that may fail without it
    from vhostfs.nydusd.daemon import NydusDaemon
    from vhostfs.runtime import StartError, serve_until_signal

    def make() -> NydusDaemon:
        if place is None:
            return NydusDaemon(arguments, errors, starter.start)
        from vhostfs.nydusd.fuse_daemon import FuseDaemon

        return FuseDaemon(arguments, errors, starter.start, place)

    try:
        serve_until_signal(make, late_status=0)
    except StartError as error:
        return _refuse(str(error), arguments)
    return 0


def _refuse(reason: str, arguments: Arguments) -> int:
    if arguments.log_file is not None:
        log.error("%s", reason)
    print(f"vhostfs-nydusd: {reason}", file=sys.stderr, flush=True)
    return 1


def raise_file_limit(wanted: int) -> None:
    """Raise RLIMIT_NOFILE to `wanted`, as far as the machine has files and we the right. 0: leave it.

    Raises OSError when the machine allows too few to leave some to others.
    """
    if wanted == 0:
        return
    available = int(FILE_MAX.read_text()) - RESERVED_FILES
    if available <= 0:
        text = f"allows {RESERVED_FILES} open files or fewer; raise it"
        raise OSError(errno.ENFILE, text, str(FILE_MAX))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = min(wanted, available, MAX_FILES)
    if target <= soft:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, max(target, hard)))
    except (PermissionError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        log.warning("open files are limited to %d: no right to raise the limit to %d", hard, target)
