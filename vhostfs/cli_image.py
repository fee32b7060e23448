"""What commands that read a finished image have in common: arguments, errors, a progress bar."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rafs.backend.http import HttpPool
    from rafs.backend.protocol import BlobBackend
    from rafs.filesystem import Filesystem

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: exit status: the image is not what it should be; it could not be looked at
FAULTY, FAILED = 1, 2


def add_image_arguments(parser: argparse.ArgumentParser, *, needs_blobs: bool) -> None:
    """BOOTSTRAP, and --blob-dir or --config."""
    parser.add_argument("bootstrap", metavar="BOOTSTRAP", type=Path, help="metadata file of the image")
    blobs = parser.add_mutually_exclusive_group(required=needs_blobs)
    blobs.add_argument(
        "--blob-dir",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="directory of data blobs, named by their ids; may be given more than once",
    )
    blobs.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="a configuration as nydusd takes it: the blobs are read from its back-end (a registry, ...)",
    )


@contextmanager
def opened_image(command: str, args: argparse.Namespace) -> Iterator[Filesystem]:
    """The image of the arguments. What is wrong with it ends the program with a sentence on stderr."""
    with opened_bootstrap(command, args.bootstrap, args.blob_dir, config=args.config) as filesystem:
        yield filesystem


@contextmanager
def opened_bootstrap(
    command: str, bootstrap: Path, blob_dirs: Sequence[Path] = (), *, config: Path | None = None
) -> Iterator[Filesystem]:
    """An image, errors as of `opened_image`; its blobs come from `blob_dirs` or the back-end in `config`."""
    import rafs
    from rafs.errors import RafsError
    from vhostfs.nydusd.errors import ConfigError

    try:
        with rafs.open(bootstrap, blob_dirs if config is None else configured_backend(config)) as filesystem:
            yield filesystem
    except KeyboardInterrupt:
        print(f"vhostfs {command}: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except ConfigError as error:
        print(f"vhostfs {command}: {config}: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from None
    except (RafsError, OSError) as error:
        fail(command, error)


def configured_backend(path: Path) -> BlobBackend:
    """The back-end that a configuration file describes. Raises OSError, ConfigError, BackendConfigError."""
    from rafs.backend.http import HttpPool
    from rafs.backend.make import make_backend
    from vhostfs.nydusd.config_parse import parse_config
    from vhostfs.nydusd.errors import ConfigError

    config, _ = parse_config(path.read_bytes())
    if config.backend is None:
        raise ConfigError("it has no back-end")
    pool = HttpPool()
    return _WithPool(make_backend(config.backend, pool), pool)


class _WithPool:
    """A back-end that owns its connections."""

    def __init__(self, backend: BlobBackend, pool: HttpPool) -> None:
        self._backend = backend
        self._pool = pool
        self.blob_size = backend.blob_size
        self.read_range = backend.read_range

    async def close(self) -> None:
        await self._backend.close()
        await self._pool.close()


def fail(command: str, error: Exception) -> None:
    """Say what went wrong, and end with FAILED, or FAULTY where the image is to blame."""
    from rafs.errors import RafsError

    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
    print(f"vhostfs {command}: {text}", file=sys.stderr)
    is_image = isinstance(error, RafsError) and error.fault == "image"
    raise SystemExit(FAULTY if is_image else FAILED) from None


@contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary files go, as Ctrl-C does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def byte_progress(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield what to tell (done, total or None) to; shown on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def table_of(title: str, *columns: str) -> Any:
    """A table to fill and show; columns that begin with "#" hold numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for column in columns:
        is_number = column[:1] == "#"
        table.add_column(column.lstrip("#"), justify="right" if is_number else "left", overflow="fold")
    return table


def show_table(table: Any) -> None:
    """Print it, as wide as the terminal is, and wide enough where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
