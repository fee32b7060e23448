"""`vhostfs-nydusd` enters its sandbox: what the command line names stays within reach, by absolute paths."""

from __future__ import annotations

import logging
from pathlib import Path

from vhostfs.nydusd.arguments import Arguments
from vhostfs.nydusd.version import build_info
from vhostfs.sandbox import apply_sandbox
from vhostfs.sandbox_nydusd import nydusd_policy
from vhostfs.sandbox_options import SandboxOptions

log = logging.getLogger(__name__)

_PATHS = (
    "sock",
    "apisock",
    "config",
    "bootstrap",
    "localfs_dir",
    "shared_dir",
    "prefetch_files",
    "log_file",
)


def confine(arguments: Arguments) -> None:
    """Enter the sandbox. Paths among the arguments become absolute: the working directory is / after.

    Raises SandboxError; ConfigError and OSError about --config.
    """
    for name in _PATHS:
        value = getattr(arguments, name)
        if value is not None and not Path(value).is_absolute():
            setattr(arguments, name, type(value)(Path.cwd() / value))
    build_info()  # a clone's is read from git's files, which will be out of sight
    readable = [path for path in (arguments.bootstrap, arguments.config) if path is not None]
    readable += [arguments.prefetch_files] if arguments.prefetch_files is not None else []
    writable = [arguments.localfs_dir] if arguments.localfs_dir is not None else []
    if arguments.config is not None and arguments.bootstrap is not None:
        of_config, cache = _named_by(arguments.config)
        readable += of_config
        writable.append(cache)
    policy = nydusd_policy(
        SandboxOptions.of(arguments),
        sockets=[Path(path) for path in (arguments.sock, arguments.apisock) if path is not None],
        log_file=arguments.log_file,
        readable=readable,
        writable=writable,
        shared=[arguments.shared_dir] if arguments.shared_dir is not None else [],
    )
    report = apply_sandbox(policy)
    log.debug("sandbox: %s", report.as_json())


def _named_by(config: Path) -> tuple[list[Path], Path]:
    """What a configuration has us read, and its cache, which is made."""
    from vhostfs.nydusd.config_parse import parse_config, read_config
    from vhostfs.nydusd.config_paths import cache_path, read_paths

    parsed, _ = parse_config(read_config(config))
    cache = Path.cwd() / cache_path(parsed)
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # it cannot be made later on
    return [Path.cwd() / path for path in read_paths(parsed)], cache
