"""`vhostfs build`: a directory or an archive in, a RAFS bootstrap and data blob out.

Here are the options, the progress bar and the summary; the work is `rafs.build`. Heavy modules are
imported when the command runs, not when its parser is made.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vhostfs import cli_build_image
from vhostfs.cli_image import unwound_by_sigterm
from vhostfs.image_options import add_image_options
from vhostfs.sizes import format_size, parse_size

if TYPE_CHECKING:
    from rafs.build import BuildResult, Progress, Source

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: --type to the compression that it stands for
ARCHIVES = {"directory": None, "tar": "none", "targz": "gzip", "tarzst": "zstd"}


def add_parser(subparsers: Subparsers) -> None:
    """Register the sub-command; `args.run(args)` carries it out and returns the exit status."""
    parser = subparsers.add_parser(
        "build",
        help="build a RAFS image from a directory, a tar archive or an OCI image",
        description="Build a RAFS image: one metadata file (bootstrap) and one data blob, or one for each "
        "layer of an image, named by its SHA-256. The same source gives the same bytes. Existing files are "
        "replaced only by complete ones. Archives are read as a stream and not unpacked.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a directory, which must not change meanwhile; an archive, or - for one from stdin; an image "
        "with layers in an OCI layout (DIR:TAG, oci:DIR:TAG) or at a registry (docker://REFERENCE)",
    )
    parser.add_argument(
        "--type",
        choices=[*ARCHIVES, *cli_build_image.SCHEMES],
        help="of SOURCE (default: found out, but a registry only by docker:// in front; archives may be "
        "plain or packed by gzip, zstd, bzip2 or xz)",
    )
    parser.add_argument(
        "--bootstrap", metavar="FILE", type=Path, required=True, help="metadata file to write"
    )
    parser.add_argument(
        "--blob-dir",
        metavar="DIR",
        type=Path,
        required=True,
        help="directory for the data blob, made if missing",
    )
    add_packing_options(parser)
    parser.add_argument(
        "--chunk-dict",
        metavar="FILE",
        type=_chunk_dict,
        help="a bootstrap; chunks that its blobs have are referred to and not stored again "
        "(nydus-image's form bootstrap=FILE is taken too)",
    )
    parser.add_argument(
        "--whiteout-spec",
        choices=["oci", "overlayfs", "none"],
        help="which entries say that something of the layers below is removed; they are no part of the "
        "image. none keeps them, for vhostfs merge (default: oci for archives, none for directories)",
    )
    parser.add_argument(
        "--parent-bootstrap",
        metavar="FILE",
        type=Path,
        help="build SOURCE as the next layer on this image; the bootstrap written has both",
    )
    add_prefetch_options(parser)
    add_image_options(parser.add_argument_group("images with layers"))
    parser.set_defaults(run=run)


def add_packing_options(parser: argparse.ArgumentParser) -> None:
    """How chunks are made; `vhostfs convert` has them too."""
    parser.add_argument(
        "--compressor",
        choices=["none", "lz4_block", "zstd"],
        default="lz4_block",
        help="of chunks; with none the blob also serves as an EROFS device (default: %(default)s)",
    )
    parser.add_argument(
        "--digester", choices=["blake3", "sha256"], default="blake3", help="of chunks (default: %(default)s)"
    )
    parser.add_argument(
        "--chunk-size",
        metavar="SIZE",
        type=parse_size,
        default="1MiB",
        help="a power of two, 4096 to 16MiB; bytes, or with KiB or MiB (default: %(default)s)",
    )
    parser.add_argument(
        "--fs-version", type=int, choices=[5, 6], default=6, help="RAFS version (default: %(default)s)"
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="threads (default: one a core)")


def add_prefetch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefetch-files",
        metavar="FILE",
        help="a list of absolute paths in the image, one a line, - for stdin: what is read first, in order; "
        "a directory stands for all below it",
    )
    parser.add_argument(
        "--prefetch-policy",
        choices=["fs", "blob", "none"],
        default="fs",
        help="what the list does. fs: its data comes first in the blob (of an archive, its own order "
        "stays) and readers are told to fetch it; blob: only the former (default: %(default)s)",
    )


def _chunk_dict(text: str) -> Path:
    return Path(text.removeprefix("bootstrap="))


def read_prefetch_list(name: str | None) -> tuple[bytes, ...]:
    """The paths in the file `name`, "-" stdin, None no file. Raises OSError."""
    if name is None:
        return ()
    content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    return tuple(line for line in content.splitlines() if line.strip())


def run(args: argparse.Namespace) -> int:
    """Build, print a summary to stdout and warnings and errors to stderr; return the exit status."""
    from rafs.build import BuildError, BuildOptions, PrefetchPolicy, Whiteouts, build_image

    kind = args.type or cli_build_image.kind_of(args.source) or _kind_of(args.source)
    is_archive = kind != "directory"
    started = time.monotonic()
    try:
        options = BuildOptions(
            args.compressor,
            args.digester,
            args.chunk_size,
            args.jobs,
            whiteouts=Whiteouts(args.whiteout_spec or ("oci" if is_archive else "none")),
            parent=args.parent_bootstrap,
            chunk_dict=args.chunk_dict,
            prefetch=read_prefetch_list(args.prefetch_files),
            prefetch_policy=PrefetchPolicy(args.prefetch_policy),
            fs_version=args.fs_version,
        )
        if kind in cli_build_image.SCHEMES:
            return cli_build_image.run(args, kind, options)
        with (
            unwound_by_sigterm(),
            _progress_bar() as progress,
            _opened(args, is_archive, progress) as source,
        ):
            result = build_image(source, args.bootstrap, args.blob_dir, options, progress)
    except OSError as error:
        print(f"vhostfs build: {error.filename!r}: {error.strerror}", file=sys.stderr)
        return 1
    except BuildError as error:
        print(f"vhostfs build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vhostfs build: interrupted, nothing written", file=sys.stderr)
        return 128 + signal.SIGINT
    for warning in result.warnings:
        print(f"vhostfs build: warning: {warning}", file=sys.stderr)
    print(summarize(result, args.chunk_size, time.monotonic() - started))
    return 0


def _kind_of(source: str) -> str:
    path = Path(source)
    return "tar" if source == "-" or (path.exists() and not path.is_dir()) else "directory"


@contextmanager
def _opened(
    args: argparse.Namespace, is_archive: bool, progress: Progress | None
) -> Iterator[bytes | Source]:
    """What to build from: the path of a directory, or an archive open for reading."""
    from rafs.build import BuildError, TarSource

    if not is_archive:
        yield os.fsencode(args.source)
        return
    if args.source == "-" and args.prefetch_files == "-":
        raise BuildError("both SOURCE and --prefetch-files are stdin; give one of them as a file")
    with open_input(args.source) as file:
        on_entry = {"on_entry": progress.scanned} if progress else {}
        yield TarSource(file, args.source, compression=ARCHIVES.get(args.type), **on_entry)


def open_input(name: str) -> BinaryIO:
    """The file `name`, "-" stdin, open for reading. Raises OSError."""
    return sys.stdin.buffer if name == "-" else Path(name).open("rb")


def summarize(result: BuildResult, chunk_size: int, seconds: float) -> str:
    """Return the lines that a successful build ends with."""
    rate = result.data_size / max(seconds, 1e-3)
    lines = [
        f"source     {result.entry_count:,} entries, {result.inode_count:,} inodes, "
        f"{format_size(result.data_size)} of data, in {seconds:.1f} s ({format_size(rate)}/s)",
        f"bootstrap  {result.bootstrap_path}  {format_size(result.bootstrap_size)}",
    ]
    if result.blob is None:
        why = "all chunks are in blobs of other images" if result.blob_ids else "no file has data"
        return "\n".join([*lines, f"blob       none: {why}"])
    repeated = result.data_size - result.distinct_size
    share = result.blob.size / result.data_size
    lines += [
        f"chunks     {result.chunk_count:,} of up to {format_size(chunk_size)}, "
        f"{result.blob.chunk_count:,} distinct, {format_size(repeated)} stored once only",
        f"blob       {result.blob_path}  {format_size(result.blob.size)}, {share:.1%} of the data",
    ]
    return "\n".join(lines)


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Show a bar on stderr while the body runs, if stderr is a terminal; yield what to report to."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("scanning", total=None)

        class Reporter:
            def scanned(self, entries: int) -> None:
                bars.update(task, description=f"scanning, {entries:,} entries")

            def packed(self, done: int, total: int | None) -> None:
                bars.update(task, description="packing", completed=done, total=total)

        yield Reporter()
