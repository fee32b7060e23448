"""`vhostfs build` of an image with layers, in a layout or at a registry: a blob for each, one bootstrap."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vhostfs.image_options import layer_bars, opened_places
from vhostfs.sizes import format_size

if TYPE_CHECKING:
    from rafs.build import BuildOptions
    from rafs.convert.local import LocalImage

#: --type to what is put before the name of the place
SCHEMES = {"oci-layout": "oci:", "registry": "docker://"}


def kind_of(source: str) -> str | None:
    """The --type that SOURCE has by its scheme, or as a layout on disk; None when it is none of them."""
    from rafs.oci.layout import Layout

    for kind, scheme in SCHEMES.items():
        if source.startswith(scheme):
            return kind
    path = Path(source.rpartition(":")[0] if not Path(source).exists() else source)
    return "oci-layout" if Layout.is_one(path) else None


def run(args: argparse.Namespace, kind: str, build: BuildOptions) -> int:
    """Build, print a summary to stdout and warnings and errors to stderr; return the exit status."""
    from rafs.convert import ConvertOptions
    from rafs.errors import BuildError, RafsError
    from rafs.oci.image import Platform

    started = time.monotonic()
    name = args.source if args.source.startswith(SCHEMES[kind]) else SCHEMES[kind] + args.source
    try:
        if args.parent_bootstrap or args.whiteout_spec:
            raise BuildError(
                "an image has all its layers; no --parent-bootstrap or --whiteout-spec is needed"
            )
        options = ConvertOptions(
            work_dir=args.work_dir,
            build=build,
            prefetch=build.prefetch if args.prefetch_policy == "fs" else (),
            platforms=tuple(Platform.parse(text) for text in args.platform),
            layers_at_once=max(1, args.layers),
        )
        with layer_bars() as progress:

            async def work() -> LocalImage:
                from rafs.convert.local import build_layers

                async with opened_places(args, name) as (source,):
                    return await build_layers(source, args.bootstrap, args.blob_dir, options, progress)

            result = asyncio.run(work())
    except RafsError as error:
        print(f"vhostfs build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vhostfs build: interrupted, nothing written", file=sys.stderr)
        return 128 + signal.SIGINT
    merged, seconds = result.merged, time.monotonic() - started
    for warning in dict.fromkeys((*(w for one in result.layers for w in one.warnings), *merged.warnings)):
        print(f"vhostfs build: warning: {warning}", file=sys.stderr)
    print(
        f"source     {len(result.layers)} layers, {merged.entry_count:,} entries, "
        f"{merged.inode_count:,} inodes, {format_size(merged.data_size)} of data, in {seconds:.1f} s"
    )
    print(f"bootstrap  {merged.bootstrap_path}  {format_size(merged.bootstrap_size)}")
    for blob in merged.blobs:
        print(f"blob       {args.blob_dir / blob.blob_id}  {format_size(blob.size)}")
    return 0
