"""`vhostfs-nydusd` enters its sandbox; what its command line names stays within reach.

Agents are started from outside of it: for caches in the snapshotter's directories, in those that the command
line names, and below what `--sandbox-writable` gives.
"""

from __future__ import annotations

import logging
from pathlib import Path

from vhostfs.agent.starter import Starter
from vhostfs.nydusd.arguments import Arguments
from vhostfs.nydusd.version import build_info
from vhostfs.sandbox import apply_sandbox
from vhostfs.sandbox_nydusd import nydusd_policy
from vhostfs.sandbox_options import SandboxOptions

log = logging.getLogger(__name__)


def confine(arguments: Arguments) -> Starter:
    """Enter the sandbox; who starts agents stays outside. Raises SandboxError; ConfigError and OSError about
    --config."""
    build_info()  # a clone's is read from git's files, which will be out of sight
    readable = [arguments.bootstrap, arguments.config, arguments.prefetch_files]
    if arguments.bootstrap is not None and arguments.trace:
        from vhostfs.tracing import trace_path

        readable.append(trace_path(arguments.trace, arguments.bootstrap))
    caches = [arguments.localfs_dir]
    if arguments.config is not None and arguments.bootstrap is not None:
        of_config, cache = _named_by(arguments.config)
        readable += of_config
        caches.append(cache)
    options = SandboxOptions.of(arguments)
    # In a mount namespace of our own a mount on this host would stay when it is taken off outside.
    off = options.off | ({"mounts"} if arguments.mode == "fuse" else set())
    policy = nydusd_policy(
        options._replace(off=off),
        sockets=_absolute(arguments.sock if arguments.mode == "virtiofs" else None, arguments.apisock),
        logs=_absolute(arguments.log_file),
        readable=_absolute(*readable),
        caches=_absolute(*caches),
        shared=_absolute(arguments.shared_dir),
        file_handles=arguments.inode_file_handles != "never",
    )
    starter = Starter.spawn(policy.caches, ["--log-to-cache", *options.words()])
    report = apply_sandbox(policy)
    log.debug("sandbox: %s", report.as_json())
    return starter


def _absolute(*paths: str | Path | None) -> list[Path]:
    return [Path.cwd() / path for path in paths if path is not None]


def _named_by(config: Path) -> tuple[list[Path], Path]:
    """What a configuration has us read, and its cache, which is made."""
    from vhostfs.nydusd.config_parse import parse_config, read_config
    from vhostfs.nydusd.config_paths import cache_path, read_paths

    parsed, _ = parse_config(read_config(config))
    cache = cache_path(parsed)
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # it cannot be made later on
    return list(read_paths(parsed)), cache
