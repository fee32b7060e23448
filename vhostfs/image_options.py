"""What commands that read and write OCI images have in common: options, places, bars for layers."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rafs.convert.progress import Progress
    from rafs.oci.place import Place

#: of one answer; a registry computes the digest of a large blob before it answers
TIMEOUT_S = 120.0


def add_image_options(parser: argparse._ActionsContainer) -> None:
    """Platforms, registries, and the directory for work."""
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        action="append",
        default=[],
        help="of an image for several platforms, take this one; may be repeated where several are written "
        "(default: all for Linux)",
    )
    parser.add_argument(
        "--work-dir",
        metavar="DIR",
        type=Path,
        default=default_work_dir(),
        help="what was converted is remembered there, and layers on their way (default: %(default)s)",
    )
    parser.add_argument(
        "--layers",
        metavar="N",
        type=int,
        default=4,
        help="layers that are converted at the same time (default: %(default)s)",
    )
    parser.add_argument(
        "--plain-http", action="store_true", help="speak to registries without TLS (on this machine always)"
    )
    parser.add_argument(
        "--skip-tls-verify", action="store_true", help="do not check the certificates of registries"
    )
    parser.add_argument(
        "--ca-cert", metavar="FILE", action="append", default=[], help="PEM file of a CA of registries"
    )


def default_work_dir() -> Path:
    """In the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "vhostfs" / "convert"


@asynccontextmanager
async def opened_places(args: argparse.Namespace, *names: str) -> AsyncIterator[list[Place]]:
    """The places of these names. SIGTERM ends the block as SIGINT does. Raises BuildError."""
    from rafs.backend.http import HttpOptions, HttpPool
    from rafs.oci.place import open_place

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    options = HttpOptions(
        connect_timeout_s=15.0,
        timeout_s=TIMEOUT_S,
        skip_verify=args.skip_tls_verify,
        ca_cert_files=tuple(args.ca_cert),
    )
    pool = HttpPool()
    places: list[Place] = []
    try:
        for name in names:
            scheme = "http" if args.plain_http else None
            places.append(open_place(name, pool, options=options, scheme=scheme))
        yield places
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for place in places:
            place.close()
        await pool.close()


@contextmanager
def layer_bars() -> Iterator[Progress | None]:
    """Show a bar for each layer on stderr while the body runs, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.fields[layer]}"),
        TextColumn("{task.description:<8}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        class Reporter:
            def begin(self, layer: str, step: str, size: int) -> None:
                shown = layer.removeprefix("sha256:")[:12]
                if layer not in tasks:
                    tasks[layer] = bars.add_task(step, layer=shown, total=size)
                bars.reset(tasks[layer], description=step, total=size)

            def advance(self, layer: str, size: int) -> None:
                if layer in tasks:
                    bars.advance(tasks[layer], size)

            def end(self, layer: str, outcome: str) -> None:
                self.begin(layer, "done", 1)
                bars.update(tasks[layer], description=outcome, completed=1, total=1)

            def say(self, text: str) -> None:
                bars.console.print(text, highlight=False)

        yield Reporter()
