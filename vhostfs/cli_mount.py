"""`vhostfs mount IMAGE MOUNTPOINT` and `vhostfs umount MOUNTPOINT`: an image on this host, by FUSE."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from vhostfs.cli_options import add_daemon_options, add_source_options, begin_logging, serve_options
from vhostfs.options import ServeOptions
from vhostfs.sandbox_options import SandboxOptions, check_parts
from vhostfs.sandbox_options import add_arguments as add_sandbox_arguments

log = logging.getLogger(__name__)

MAX_THREADS = 32


def thread_count(text: str) -> int:
    """A number of threads; raises ArgumentTypeError."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_THREADS}")
    return int(text)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register both sub-commands."""
    parser = subparsers.add_parser(
        "mount",
        help="mount an image on this host",
        description="Mount a RAFS image on this host: a bootstrap (with --blob-dir or --config), an image in "
        "an OCI layout (DIR[:TAG]), or one at a registry (HOST/NAME[:TAG]). Chunks are fetched when read.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("image", metavar="IMAGE", help="bootstrap, OCI layout or registry reference")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path, help="an existing directory")
    parser.add_argument(
        "-o",
        dest="mount_options",
        action="append",
        default=[],
        metavar="OPTIONS",
        help="as mount(8) has them",
    )
    parser.add_argument(
        "-f",
        "--foreground",
        action="store_true",
        help="stay in the foreground; otherwise the command returns when the mount answers",
    )
    parser.add_argument("--threads", metavar="N", type=thread_count, default=4, help="threads that answer")
    add_source_options(parser, required=False)
    add_daemon_options(parser)
    add_sandbox_arguments(parser)
    parser.set_defaults(run=run)

    parser = subparsers.add_parser(
        "umount",
        help="take a mount off",
        description="Unmount what `vhostfs mount` has mounted; its daemon ends.",
    )
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    parser.add_argument("-l", "--lazy", action="store_true", help="at once, though files in it may be open")
    parser.set_defaults(run=run_umount)


def run_umount(arguments: argparse.Namespace) -> int:
    """0: it is off, 1: it is not."""
    from vhostfs.fuse_mount import FuseMountError, umount

    try:
        umount(Path.cwd() / arguments.mountpoint, lazy=arguments.lazy)
    except FuseMountError as error:
        return _refuse(error, "umount")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Mount, and serve until it is unmounted. 0: a clean end, 1: it could not begin, 2: options do not fit.

    In the background: 0 as soon as the mount answers.
    """
    try:
        check_parts(SandboxOptions.of(arguments).off)
    except ValueError as error:
        print(f"vhostfs mount: {error}", file=sys.stderr)
        return 2
    if arguments.foreground:
        return mount(arguments, lambda: None)
    ready, told = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(told)
        if os.read(ready, 1):
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or 1
    os.close(ready)
    os.setsid()
    os._exit(mount(arguments, lambda: _leave_terminal(told)))


def _leave_terminal(told: int) -> None:
    """Nobody reads what is said from now on; --log-file does."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.write(told, b"1")
    os.close(told)


def mount(arguments: argparse.Namespace, is_ready: Callable[[], None]) -> int:
    """Mount and serve in this process; `is_ready` is called when the mount answers. The exit status."""
    begin_logging(arguments)
    from rafs.errors import RafsError
    from rafs.trace.errors import TraceError
    from vhostfs.fuse_mount import FuseMountError, clones, open_session, parse_options
    from vhostfs.image_source import find_image
    from vhostfs.nydusd.errors import ConfigError
    from vhostfs.options import default_cache_dir
    from vhostfs.runtime import StartError, os_error_text
    from vhostfs.sandbox_policy import SandboxError

    mountpoint = Path.cwd() / arguments.mountpoint
    try:
        mount_options = parse_options(arguments.mount_options)
        found = find_image(arguments.image, default_cache_dir() / "bootstraps")
        if found.backend is None and arguments.blob_dir is None and arguments.config is None:
            return _refuse("a bootstrap does not say where its blobs are: give --blob-dir or --config")
        options = serve_options(arguments, found.bootstrap, found.backend, num_request_queues=0)
        fds = clones(open_session(mountpoint, mount_options), arguments.threads)
        _serve(options, SandboxOptions.of(arguments), mountpoint, fds, is_ready)
    except ConfigError as error:
        return _refuse(f"{arguments.config}: {error}")
    except (FuseMountError, RafsError, SandboxError, StartError, TraceError) as error:
        return _refuse(error)
    except OSError as error:
        return _refuse(os_error_text(error))
    return 0


def _serve(
    options: ServeOptions,
    sandbox: SandboxOptions,
    mountpoint: Path,
    fds: list[int],
    is_ready: Callable[[], None],
) -> None:
    """Enter the sandbox, and serve. Whatever ends this process, the mount is taken off."""
    from vhostfs.agent.starter import Starter
    from vhostfs.mount_daemon import MountDaemon, serve_mount
    from vhostfs.sandbox import apply_sandbox
    from vhostfs.sandbox_serve import serve_policy
    from vhostfs.unmounter import Unmounter

    unmounter = Unmounter(mountpoint)
    policy = serve_policy(options, sandbox)
    starter = Starter.spawn([options.cache_dir], ["--idle-timeout", "0", "--log-to-cache", *sandbox.words()])
    # In a mount namespace of our own the mount would stay when it is taken off outside.
    report = apply_sandbox(policy._replace(off=policy.off | {"mounts"}))
    log.debug("sandbox: %s", report.as_json())
    serve_mount(lambda: MountDaemon(options, starter.start, mountpoint, fds, unmounter, is_ready))


def _refuse(reason: object, command: str = "mount") -> int:
    print(f"vhostfs {command}: {reason}", file=sys.stderr)
    return 1
