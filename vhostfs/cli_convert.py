"""`vhostfs convert`: an OCI image in, a RAFS image out, at registries or in layouts on disk."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.cli_build import add_packing_options, read_prefetch_list
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from rafs.convert import ConvertOptions, ConvertResult
    from rafs.convert.progress import Progress
    from vhostfs.cli_build import Subparsers

#: of one answer; a registry computes the digest of a large blob before it answers
TIMEOUT_S = 120.0


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "convert",
        help="convert an OCI image to a RAFS image",
        description="Convert an OCI or Docker image to a RAFS v6 image that nydus-snapshotter and Kata run. "
        "SRC and DST are registry references, or OCI layouts on disk as DIR:TAG; docker:// and oci: in front "
        "say which. Layers are converted and pushed side by side; what DST has, or a registry can take over "
        "from another repository, is not sent. Started again, it goes on where it was.",
    )
    parser.add_argument("source", metavar="SRC", help="image to convert")
    parser.add_argument("target", metavar="DST", help="where the converted image goes")
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        action="append",
        default=[],
        help="of an image for several platforms, convert this one; may be repeated (default: all for Linux)",
    )
    parser.add_argument(
        "--keep-oci",
        choices=["none", "index", "referrer"],
        default="none",
        help="keep the original beside the converted image. index: DST is an index of both; referrer: DST is "
        "the original, and the converted image is found as its referrer (default: %(default)s)",
    )
    add_packing_options(parser)
    parser.add_argument(
        "--prefetch-files",
        metavar="FILE",
        help="a list of absolute paths in the image, one a line, - for stdin: readers are told to fetch them "
        "first, in order; a directory stands for all below it",
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
    parser.set_defaults(run=run)


def default_work_dir() -> Path:
    """In the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "vhostfs" / "convert"


def run(args: argparse.Namespace) -> int:
    """Convert, print a summary to stdout and warnings and errors to stderr; return the exit status."""
    from rafs.build import BuildOptions
    from rafs.convert import ConvertOptions, KeepOci
    from rafs.errors import RafsError
    from rafs.oci.image import Platform

    started = time.monotonic()
    try:
        options = ConvertOptions(
            work_dir=args.work_dir,
            build=BuildOptions(
                args.compressor,
                args.digester,
                args.chunk_size,
                args.jobs,
                chunk_dict=args.chunk_dict,
                fs_version=args.fs_version,
            ),
            prefetch=read_prefetch_list(args.prefetch_files),
            platforms=tuple(Platform.parse(text) for text in args.platform),
            keep_oci=KeepOci(args.keep_oci),
            layers_at_once=max(1, args.layers),
        )
        with _bars() as progress:
            result = asyncio.run(_convert(args, options, progress))
    except OSError as error:
        print(f"vhostfs convert: {error.filename!r}: {error.strerror}", file=sys.stderr)
        return 1
    except RafsError as error:
        print(f"vhostfs convert: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vhostfs convert: interrupted; started again it goes on", file=sys.stderr)
        return 128 + signal.SIGINT
    for warning in result.warnings:
        print(f"vhostfs convert: warning: {warning}", file=sys.stderr)
    print(summarize(args.target, result, time.monotonic() - started))
    return 0


async def _convert(
    args: argparse.Namespace, options: ConvertOptions, progress: Progress | None
) -> ConvertResult:
    from rafs.backend.http import HttpOptions, HttpPool
    from rafs.convert import convert_image
    from rafs.oci.place import open_place

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    http = HttpOptions(
        connect_timeout_s=15.0,
        timeout_s=TIMEOUT_S,
        skip_verify=args.skip_tls_verify,
        ca_cert_files=tuple(args.ca_cert),
    )
    scheme = "http" if args.plain_http else None
    pool = HttpPool()
    try:
        source = open_place(args.source, pool, options=http, scheme=scheme)
        target = open_place(args.target, pool, options=http, scheme=scheme)
        try:
            return await convert_image(source, target, options, progress)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            source.close()
            target.close()
    finally:
        await pool.close()


def summarize(target: str, result: ConvertResult, seconds: float) -> str:
    """Return the lines that a successful conversion ends with."""
    lines = []
    for image in result.images:
        before = sum(layer.source.size for layer in image.layers)
        after = sum(blob.size for blob in image.blobs)
        again = sum(layer.outcome != "converted" for layer in image.layers)
        known = f", {again} of them before" if again else ""
        lines += [
            f"{image.platform}  {len(image.layers)} layers{known}, {image.merged.entry_count:,} entries, "
            f"{format_size(image.merged.data_size)} of data",
            f"  layers   {format_size(before)} became {len(image.blobs)} blobs of {format_size(after)}, "
            f"and a bootstrap of {format_size(image.bootstrap.size)}",
            f"  manifest {image.manifest.digest}",
        ]
    lines.append(f"{target}  {result.named.digest}, in {seconds:.1f} s")
    return "\n".join(lines)


@contextmanager
def _bars() -> Iterator[Progress | None]:
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
                bars.console.print(text)

        yield Reporter()
