"""`vhostfs convert`: an OCI image in, a RAFS image out, at registries or in layouts on disk."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.cli_build import add_packing_options, read_prefetch_list
from vhostfs.image_options import add_image_options, layer_bars, opened_places
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from rafs.convert import ConvertOptions, ConvertResult
    from rafs.convert.progress import Progress
    from vhostfs.cli_build import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "convert",
        help="convert an OCI image to a RAFS image",
        description="Convert an OCI or Docker image to a RAFS image that nydus-snapshotter and Kata run. "
        "SRC and DST are registry references, or OCI layouts on disk as DIR:TAG; docker:// and oci: in front "
        "say which. Layers are converted and pushed side by side; what DST has, or a registry can take over "
        "from another repository, is not sent. Started again, it goes on where it was.",
    )
    parser.add_argument("source", metavar="SRC", help="image to convert")
    parser.add_argument("target", metavar="DST", help="where the converted image goes")
    parser.add_argument(
        "--keep-oci",
        choices=["none", "index", "referrer"],
        default="none",
        help="keep the original beside the converted image. index: DST is an index of both; referrer: DST is "
        "the original, and the converted image is found as its referrer (default: %(default)s)",
    )
    add_packing_options(parser)
    parser.add_argument(
        "--chunk-dict",
        metavar="IMAGE|bootstrap=FILE",
        help="a RAFS image, or the bootstrap of one; chunks that its blobs have are referred to and not "
        "stored again. Its blobs become layers of DST, which must have them or be able to take them over",
    )
    parser.add_argument(
        "--prefetch-files",
        metavar="FILE",
        help="a list of absolute paths in the image, one a line, - for stdin: readers are told to fetch them "
        "first, in order; a directory stands for all below it",
    )
    add_image_options(parser)
    parser.set_defaults(run=run)


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
                chunk_dict=_dictionary_file(args.chunk_dict),
                fs_version=args.fs_version,
            ),
            prefetch=read_prefetch_list(args.prefetch_files),
            platforms=tuple(Platform.parse(text) for text in args.platform),
            keep_oci=KeepOci(args.keep_oci),
            layers_at_once=max(1, args.layers),
        )
        with layer_bars() as progress:
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
    from rafs.convert import convert_image

    names = [args.source, args.target]
    if args.chunk_dict and options.build.chunk_dict is None:
        names.append(args.chunk_dict)
    async with opened_places(args, *names) as (source, target, *dictionary):
        chosen = replace(options, dictionary=dictionary[0]) if dictionary else options
        return await convert_image(source, target, chosen, progress)


def _dictionary_file(text: str | None) -> Path | None:
    """The bootstrap that is meant; None when it is an image."""
    if text is None or not (text.startswith("bootstrap=") or Path(text).is_file()):
        return None
    return Path(text.removeprefix("bootstrap="))


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
