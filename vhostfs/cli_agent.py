"""`vhostfs agent`: the process that fetches for one cache directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rafs.limits import CacheLimits
from vhostfs.defaults import DEFAULT_IDLE_TIMEOUT_S, default_cache_dir
from vhostfs.sandbox_options import SandboxOptions, check_parts
from vhostfs.sandbox_options import add_arguments as add_sandbox_arguments
from vhostfs.sizes import parse_size


def seconds(text: str) -> float | None:
    """A number of seconds, None for `never`; raises ArgumentTypeError."""
    if text == "never":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, nor 'never'")
    return value


def rate(text: str) -> float:
    """A number that is not negative; raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return value


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, the host in brackets if it has colons; raises ArgumentTypeError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command; `args.run(args)` serves and returns the exit status."""
    parser = subparsers.add_parser(
        "agent",
        help="fetch chunks for the daemons that share a cache directory",
        description="One process for each cache directory fetches chunks, verifies them and writes them, for "
        "all daemons of the machine. Daemons start it when they need it; a service manager may do so too, "
        "and may hand it the socket CACHE_DIR/.agent/socket. A directory that has an agent gets no second "
        "one: the command then ends with 0.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        type=Path,
        default=default_cache_dir(),
        help="where fetched chunks are kept; made if it does not exist",
    )
    parser.add_argument(
        "--within",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="refuse a cache directory that is not in this one (repeatable: in one of these)",
    )
    parser.add_argument(
        "--idle-timeout",
        metavar="S",
        type=seconds,
        default=DEFAULT_IDLE_TIMEOUT_S,
        help="end when no daemon has been connected for so many seconds, or 'never'",
    )
    parser.add_argument(
        "--cache-quota",
        metavar="SIZE",
        type=parse_size,
        help="what the cache directory may take of its disk, whatever daemons ask for",
    )
    parser.add_argument(
        "--cache-min-free",
        metavar="SIZE",
        type=parse_size,
        help="what is to stay free on that disk, whatever daemons ask for",
    )
    parser.add_argument(
        "--host-requests",
        metavar="N",
        type=rate,
        default=0,
        help="ask one registry or other server for at most so much in a second; 0: no limit",
    )
    parser.add_argument(
        "--host-bandwidth",
        metavar="SIZE",
        type=parse_size,
        default="0",
        help="read at most so many bytes a second from one server, such as 50MiB; 0: no limit",
    )
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        type=address,
        help="serve figures for Prometheus there, at /metrics: what was fetched, for whom, and what failed",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warn", "error"), default="info", help="what to log"
    )
    parser.add_argument(
        "--log-to-cache", action="store_true", help="log to CACHE_DIR/.agent/log, not to the standard error"
    )
    add_sandbox_arguments(parser)
    parser.set_defaults(run=run)


def _cache_limits(arguments: argparse.Namespace) -> CacheLimits | None:
    quota, min_free = arguments.cache_quota, arguments.cache_min_free
    if quota is None and min_free is None:
        return None
    return CacheLimits(quota=quota, min_free=min_free or 0)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop, or idle. 0: a clean end, 1: it could not begin, 2: options do not fit."""
    sandbox = SandboxOptions.of(arguments)
    try:
        check_parts(sandbox.off)
    except ValueError as error:
        print(f"vhostfs agent: {error}", file=sys.stderr)
        return 2
    from vhostfs.agent import process  # heavy: after the arguments are known to be good

    return process.run(
        process.AgentOptions(
            cache_dir=Path.cwd() / arguments.cache_dir,
            cache_limits=_cache_limits(arguments),
            within=tuple(Path.cwd() / directory for directory in arguments.within),
            idle_timeout_s=arguments.idle_timeout,
            log_level=arguments.log_level,
            log_to_cache=arguments.log_to_cache,
            metrics=arguments.metrics,
            host_requests_per_s=arguments.host_requests,
            host_bytes_per_s=arguments.host_bandwidth,
            sandbox=sandbox,
        )
    )
