"""How fast is `vhostfs build`? Beside mkfs.erofs and tar | zstd, on the same tree.

The tree is the demo's: Python and bash with all that they need, unpacked from Debian packages; or one given.
It is read once before, so that all find it in the page cache; so are the archives of it, one tar, the same in
gzip, and an OCI image of three layers. Rounds take turns; figures are medians. zstd gets all CPUs, as vhostfs
build does; mkfs.erofs 1.5 has one thread, and takes no archives. What each writes is not the same: vhostfs
removes duplicate chunks and computes their digests, mkfs.erofs compresses in pieces of 4 KiB.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from rich import box
from rich.table import Table

from bench import process
from bench.place import WORK, BenchError, console, describe_machine, first_line
from bench.process import Cost
from rafs.oci.layout import Layout
from tests.fakes.oci_image import add_image
from tests.guest import debian

OUT = WORK / "build-output"
LAYERS = 3
GZIP = "gzip -dc | zstd -3 -T0"


@dataclass(frozen=True)
class Sources:
    """The same files: a directory, a tar of it, that in gzip, and an OCI layout of LAYERS layers."""

    tree: Path
    tar: Path
    targz: Path
    layout: Path


def make_sources(tree: Path) -> Sources:
    """Pack `tree` in all ways, anew."""
    folder = WORK / "build-sources"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    layout = Layout(folder / "layout")
    names = sorted(path.relative_to(tree) for path in tree.rglob("*"))
    parts = [
        names[number * len(names) // LAYERS : (number + 1) * len(names) // LAYERS] for number in range(LAYERS)
    ]
    add_image(layout, [_tar(tree, part) for part in parts], tag="all")
    plain = _tar(tree, names)
    (folder / "all.tar").write_bytes(plain)
    (folder / "all.tar.gz").write_bytes(gzip.compress(plain, 6))
    return Sources(tree, folder / "all.tar", folder / "all.tar.gz", layout.folder)


def _tar(tree: Path, names: Sequence[Path]) -> bytes:
    command = ["tar", "--create", "--format=pax", "--xattrs", "--numeric-owner", "--no-recursion"]
    command += ["--directory", str(tree), "--null", "--verbatim-files-from", "--files-from=-"]
    listed = b"\0".join(bytes(name) for name in names)
    return subprocess.run(command, input=listed, capture_output=True, check=True).stdout


@dataclass
class Contender:
    name: str
    command: Callable[[Sources], Cost]
    #: whose time the ratio is against: with the same kind of compression
    peer: str | None = None
    needs: tuple[str, ...] = ()  # programs
    costs: list[Cost] = field(default_factory=list)
    output_bytes: int = 0

    def measure(self, source: Sources) -> None:
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        self.costs.append(self.command(source))
        self.output_bytes = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())


def vhostfs(*options: str, of: str = "tree") -> Callable[[Sources], Cost]:
    """`of` is the field of Sources to build from."""
    build = [sys.executable, "-m", "vhostfs", "build"]
    where = ["--bootstrap", str(OUT / "bootstrap"), "--blob-dir", str(OUT / "blobs")]
    if of == "layout":
        where += ["--work-dir", str(OUT / "work")]
    return lambda source: process.run([[*build, getattr(source, of), *where, *options]])


def mkfs_erofs(*options: str) -> Callable[[Sources], Cost]:
    return lambda source: process.run([["mkfs.erofs", "--quiet", *options, OUT / "erofs", source.tree]])


def tar_zstd(*options: str) -> Callable[[Sources], Cost]:
    pack = ["tar", "--create", "--numeric-owner", "--xattrs", "--directory"]
    return lambda source: process.run([[*pack, source.tree, "."], ["zstd", "-q", *options]], OUT / "tar.zst")


def gzip_zstd(*options: str) -> Callable[[Sources], Cost]:
    return lambda source: process.run(
        [["gzip", "-dc", source.targz], ["zstd", "-q", *options]], OUT / "tar.zst"
    )


def contenders() -> list[Contender]:
    erofs, zstd = ("mkfs.erofs",), ("tar", "zstd")
    return [
        Contender("vhostfs build, lz4_block", vhostfs(), peer="mkfs.erofs -zlz4"),
        Contender("vhostfs build, zstd", vhostfs("--compressor", "zstd"), peer="tar | zstd -3 -T0"),
        Contender("vhostfs build, none", vhostfs("--compressor", "none"), peer="mkfs.erofs"),
        Contender("the tar, zstd", vhostfs("--compressor", "zstd", of="tar"), peer="tar | zstd -3 -T0"),
        Contender("the tar.gz, zstd", vhostfs("--compressor", "zstd", of="targz"), peer=GZIP),
        Contender("3 layers, zstd", vhostfs("--compressor", "zstd", of="layout"), peer=GZIP),
        Contender("mkfs.erofs -zlz4", mkfs_erofs("-zlz4"), needs=erofs),
        Contender("mkfs.erofs", mkfs_erofs(), needs=erofs),
        Contender("tar | zstd -3 -T0", tar_zstd("-3", "-T0"), needs=zstd),
        Contender("tar | zstd -3", tar_zstd("-3"), needs=zstd),
        Contender(GZIP, gzip_zstd("-3", "-T0"), needs=("gzip", "zstd")),
    ]


def read_all(source: Path) -> tuple[int, int]:
    """Bring the tree into the page cache; its files and bytes."""
    files = size = 0
    for folder, _, names in os.walk(source):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                files, size = files + 1, size + len(path.read_bytes())
    return files, size


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.build", description=__doc__.split("\n")[0])
    parser.add_argument("--tree", type=Path, metavar="DIR", help="what to build from (the demo's root)")
    parser.add_argument("--rounds", type=int, default=3, help="builds, a row (3)")
    arguments = parser.parse_args(argv)
    out = console()
    try:
        tree = arguments.tree or debian.python_root()
        files, size = read_all(tree)
        # in a process of its own: the memory of this one counts as the peak of what it starts
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            source = other.submit(make_sources, tree).result()
        everyone = contenders()
        runs = [one for one in everyone if all(map(shutil.which, one.needs))]
        versions = ", ".join(first_line(name, "--version") for name in ("mkfs.erofs", "tar", "zstd"))
        out.print(f"[bold]Build[/] on {describe_machine()}\npeers: {versions}")
        out.print(f"{files:,} files, {size / 1e6:.0f} MB; {arguments.rounds} builds a row, taking turns")
        if absent := [one.name for one in everyone if one not in runs]:
            out.print(f"left out, as their programs are not here: {', '.join(absent)}")
        for _ in range(arguments.rounds):
            for contender in runs:
                contender.measure(source)
    except (BenchError, debian.PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("wall s", "files/s", "MB/s", "cpu s", "peak MB", "output MB", "speed / peer", "size / peer"):
        table.add_column(name, justify="right")
    walls = {one.name: statistics.median(cost.wall_s for cost in one.costs) for one in runs}
    sizes = {one.name: one.output_bytes for one in runs}
    for one in runs:
        wall = walls[one.name]
        cells = [f"{wall:.2f}", f"{files / wall:,.0f}", f"{size / wall / 1e6:,.0f}"]
        cells.append(f"{statistics.median(cost.cpu_s for cost in one.costs):.2f}")
        cells.append(f"{max(cost.peak_rss for cost in one.costs) / 1e6:,.0f}")
        cells.append(f"{one.output_bytes / 1e6:,.1f}")
        if one.peer in walls:
            ratio = walls[one.peer] / wall
            cells.append(f"[{'red' if ratio < 1 else 'green'}]{ratio:.2f}[/] {one.peer}")
            cells.append(f"{one.output_bytes / sizes[one.peer]:.2f}")
        table.add_row(one.name, *cells)
    out.print(table)
    for folder in (OUT, WORK / "build-sources"):
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
