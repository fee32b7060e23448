"""`vhostfs serve`: one image on one vhost-user socket, in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from vhostfs.cli_options import add_daemon_options, add_source_options, begin_logging, serve_options
from vhostfs.defaults import DEFAULT_POLL_US
from vhostfs.sandbox_options import SandboxOptions, check_parts
from vhostfs.sandbox_options import add_arguments as add_sandbox_arguments
from virtqueue.offer import MAX_REQUEST_QUEUES

log = logging.getLogger(__name__)


def queue_count(text: str) -> int:
    """A number of request queues; raises ArgumentTypeError."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_REQUEST_QUEUES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_REQUEST_QUEUES}")
    return int(text)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command; `args.run(args)` serves and returns the exit status."""
    parser = subparsers.add_parser(
        "serve",
        help="serve an image to a virtual machine",
        description="The vhost-user back-end of a virtio-fs device that serves one RAFS image (v6 or v5). "
        "It waits for a VMM on the socket, serves it, and waits for the next one when it goes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", metavar="PATH", help="listen here (mode 0600; a stale socket is replaced)")
    where.add_argument("--fd", metavar="N", type=int, help="an inherited descriptor that listens already")
    parser.add_argument("--bootstrap", metavar="FILE", type=Path, required=True, help="the image's metadata")
    add_source_options(parser, required=True)
    parser.add_argument(
        "--tag", help="the device's tag, for front-ends that ask the back-end for it (QEMU has its own)"
    )
    parser.add_argument(
        "--num-request-queues", metavar="N", type=queue_count, default=1, help="request queues, 1 to 64"
    )
    parser.add_argument(
        "--poll",
        metavar="US",
        type=int,
        default=DEFAULT_POLL_US,
        help="microseconds that a queue is watched at most before its thread sleeps; 0: never",
    )
    add_daemon_options(parser)
    add_sandbox_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop. 0: a clean end, 1: it could not begin, 2: options that do not fit."""
    sandbox = SandboxOptions.of(arguments)
    try:
        check_parts(sandbox.off)
    except ValueError as error:
        print(f"vhostfs serve: {error}", file=sys.stderr)
        return 2
    begin_logging(arguments)
    # heavy: after the arguments are known to be good; and all of it: nothing can be imported in the sandbox
    from rafs.errors import CacheError
    from rafs.trace.errors import TraceError
    from vhostfs.agent.starter import Starter
    from vhostfs.daemon import serve
    from vhostfs.nydusd.errors import ConfigError
    from vhostfs.runtime import StartError, os_error_text
    from vhostfs.sandbox import apply_sandbox
    from vhostfs.sandbox_policy import SandboxError
    from vhostfs.sandbox_serve import serve_policy

    try:
        options = serve_options(
            arguments,
            arguments.bootstrap,
            socket=arguments.socket,
            listen_fd=arguments.fd,
            tag=arguments.tag,
            num_request_queues=arguments.num_request_queues,
            poll_us=arguments.poll,
        )
    except ConfigError as error:
        print(f"vhostfs serve: {arguments.config}: {error}", file=sys.stderr)
        return 1
    except TraceError as error:
        print(f"vhostfs serve: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"vhostfs serve: {os_error_text(error)}", file=sys.stderr)
        return 1
    try:
        policy = serve_policy(options, sandbox)
        # An agent of ours ends with us; one that is there already is used.
        starter = Starter.spawn(
            [options.cache_dir], ["--idle-timeout", "0", "--log-to-cache", *sandbox.words()]
        )
        report = apply_sandbox(policy)
        log.debug("sandbox: %s", report.as_json())
        serve(options, starter.start)
    except (CacheError, SandboxError, StartError) as error:
        print(f"vhostfs serve: {error}", file=sys.stderr)
        return 1
    return 0
