"""`vhostfs`: arguments to a sub-command, its exit status back; nothing else.

Each sub-command's module registers its parser and imports what is heavy only when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from vhostfs import (
    cli_agent,
    cli_build,
    cli_cache,
    cli_check,
    cli_compact,
    cli_convert,
    cli_diff,
    cli_export,
    cli_inspect,
    cli_merge,
    cli_mount,
    cli_registry,
    cli_serve,
    cli_stat,
    cli_trace,
    cli_unpack,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2: it makes no sense)."""
    parser = argparse.ArgumentParser(
        prog="vhostfs",
        description="Build, check and unpack RAFS (Nydus) images, serve them to virtual machines over "
        "virtio-fs, and mount them on this host.",
    )
    parser.add_argument("--version", action="version", version=f"vhostfs {version('vhostfs')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    cli_agent.add_parser(subparsers)
    cli_build.add_parser(subparsers)
    cli_convert.add_parser(subparsers)
    cli_merge.add_parser(subparsers)
    cli_registry.add_parser(subparsers)
    cli_serve.add_parser(subparsers)
    cli_mount.add_parser(subparsers)
    cli_cache.add_parser(subparsers)
    cli_check.add_parser(subparsers)
    cli_inspect.add_parser(subparsers)
    cli_unpack.add_parser(subparsers)
    cli_trace.add_parser(subparsers)
    cli_export.add_parser(subparsers)
    cli_diff.add_parser(subparsers)
    cli_stat.add_parser(subparsers)
    cli_compact.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
