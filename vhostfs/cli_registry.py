"""`vhostfs registry serve`: a small registry over a directory."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhostfs.cli_build import Subparsers
    from vhostfs.registry_server.store import Store

DEFAULT_LISTEN = "127.0.0.1:5000"


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser("registry", help="a small registry, for demos and tests")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    serve = actions.add_parser(
        "serve",
        help="serve a directory",
        description="Serve the OCI Distribution API (pull, push, delete, referrers) over a directory. There "
        "are no users: whoever can connect can read and write.",
    )
    serve.add_argument("directory", metavar="DIR", type=Path, help="what is stored; made if missing")
    serve.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default=DEFAULT_LISTEN,
        help="port 0 takes a free one; what is listened on is printed (default: %(default)s)",
    )
    serve.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    host, colon, port = args.listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        print(f"vhostfs registry: {args.listen!r} is not HOST:PORT", file=sys.stderr)
        return 2
    from vhostfs.registry_server.store import Store, StoreError

    try:
        store = Store(args.directory)
    except StoreError as error:
        print(f"vhostfs registry: {error}", file=sys.stderr)
        return 1
    try:
        asyncio.run(_serve(store, host.strip("[]"), int(port)))
    except OSError as error:
        print(f"vhostfs registry: cannot listen on {args.listen}: {error.strerror}", file=sys.stderr)
        return 1
    finally:
        store.close()
    return 0


async def _serve(store: Store, host: str, port: int) -> None:
    from aiohttp import web

    from vhostfs.registry_server.server import Registry

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(Registry(store).app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        print(f"listening on {shown}:{address[1]}", flush=True)
        await stopped.wait()
    finally:
        await runner.cleanup()
