"""make demo: a Debian root file system becomes a RAFS image; a guest runs a program from it, cold and warm.

The input is real: Python, bash and what they need, unpacked from Debian packages, some 5,000 files.
`vhostfs build` makes the image, `vhostfs serve` serves it, a Linux guest mounts it over virtio-fs, changes
root into it and runs a Python program, whose answer is checked against the source tree. Then once more with
a new daemon, a new guest and the chunk cache that the first run left. The image stays in build/demo.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.guest import debian
from tests.guest.backend import BackendError, Image, Statistics, run_on_image
from tests.guest.kernel import KernelError
from tests.guest.programs import ProgramError
from tests.guest.vm import Guest, GuestError, Result
from vhostfs.sizes import format_size

WORK = debian.REPO / "build" / "demo"

#: Runs inside the image. Its answer depends on the bytes of every module file that Python read.
PROGRAM = r"""
import asyncio, csv, decimal, email, hashlib, http.client, json, lzma, sqlite3, ssl, sys, unittest, zoneinfo

database = sqlite3.connect(":memory:")
database.execute("create table zone (name text)")
database.executemany("insert into zone values (?)", [(name,) for name in zoneinfo.available_timezones()])
(zones,) = database.execute("select count(*) from zone where name like 'Europe/%'").fetchone()
loaded = [module for name, module in sys.modules.items() if name != "__main__"]
files = sorted({module.__file__ for module in loaded if getattr(module, "__file__", None)})
digest = hashlib.sha256()
for file in files:
    with open(file, "rb") as module:
        digest.update(module.read())
print(json.dumps({
    "python": sys.version.split()[0], "zones": zones, "files": files, "sha256": digest.hexdigest(),
}))
"""

SCRIPT = r"""
set -e
now() { echo | ts %.s; }
now
mount -t virtiofs -o ro "$TAG" /mnt
head -c 1 /mnt/usr/bin/python3 >/dev/null
now
chroot /mnt /usr/bin/python3 -I -B - </program.py
now
"""


@dataclass(frozen=True)
class Answer:
    """What PROGRAM prints."""

    python: str
    zones: int
    files: list[str]
    sha256: str  # of the files, one after the other


@dataclass(frozen=True)
class Run:
    """One run of the program in a guest: what the guest measured and what the daemon counted."""

    first_byte_s: float  # from the mount to the first byte of a file
    program_s: float
    guest_s: float  # boot to power-off
    answer: Answer
    counted: Statistics

    @property
    def hit_ratio(self) -> float:
        return self.counted.hits / max(1, self.counted.reads)


def run(guest: Guest, image: Image, name: str) -> Run:
    work = WORK / name
    work.mkdir()
    files = {"/program.py": PROGRAM.encode()}
    result, counted = run_on_image(guest, image, SCRIPT, work, cache_dir=WORK / "cache", files=files)
    return _measured(result.check(), counted)


def _measured(result: Result, counted: Statistics) -> Run:
    start, first_byte, answer, end = result.lines
    at = [float(stamp) for stamp in (start, first_byte, end)]
    return Run(at[1] - at[0], at[2] - at[1], result.seconds, Answer(**json.loads(answer)), counted)


def check(answer: Answer, source: Path) -> None:
    """Stop if the guest did not see the very bytes of the source tree."""
    digest = hashlib.sha256()
    for file in answer.files:
        digest.update((source / file.lstrip("/")).read_bytes())
    if digest.hexdigest() != answer.sha256:
        raise GuestError(f"the guest read other bytes than {source} has ({len(answer.files)} files)")


def regular_files(folder: Path) -> Iterator[os.stat_result]:
    for parent, _, names in os.walk(folder):
        for name in names:
            found = Path(parent, name).lstat()
            if stat.S_ISREG(found.st_mode):
                yield found


def image_table(image: Image, build_s: float) -> Table:
    files = list(regular_files(image.source))
    source, blob = sum(f.st_size for f in files), sum(f.st_size for f in regular_files(image.blob_dir))
    table = Table(title="The image", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_row("source", f"{len(files):,} files, {format_size(source)}")
    table.add_row("blob (data)", f"{format_size(blob)}, {blob / source:.0%} of the source")
    table.add_row("bootstrap (metadata)", format_size(image.bootstrap.stat().st_size))
    table.add_row("built in", f"{build_s:.1f} s")
    return table


def run_table(cold: Run, warm: Run, blob_bytes: int) -> Table:
    table = Table(title="A program run from it, in a guest", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("cold cache", justify="right")
    table.add_column("warm cache", justify="right")
    row = table.add_row
    runs = (cold, warm)
    row("mount to first byte", *(f"{r.first_byte_s * 1000:.0f} ms" for r in runs))
    row("program, start to end", *(f"{r.program_s:.2f} s" for r in runs))
    row("guest, boot to power-off", *(f"{r.guest_s:.1f} s" for r in runs), end_section=True)
    row("FUSE requests", *(f"{r.counted.requests:,}" for r in runs))
    row("reads that hit / missed", *(f"{r.counted.hits:,} / {r.counted.misses:,}" for r in runs))
    row("hit ratio", *(f"{r.hit_ratio:.1%}" for r in runs), end_section=True)
    row("chunks fetched", *(f"{r.counted.chunks_fetched:,}" for r in runs))
    row("reads of the blob", *(f"{r.counted.backend_requests:,}" for r in runs))
    fetched = [r.counted.bytes_fetched for r in runs]
    row("bytes fetched", *(format_size(count) for count in fetched))
    row("share of the blob", *(f"{count / blob_bytes:.0%}" for count in fetched))
    return table


def main() -> int:
    console = Console()
    try:
        console.print("Unpacking Debian packages (kept in the cache) ...")
        source = debian.python_root()
        guest = Guest()
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        console.print("Building the image ...")
        started = time.monotonic()
        image = Image(source, WORK, show_progress=True)
        build_s = time.monotonic() - started
        console.print(f"Booting Linux {guest.kernel.version} on it (emulated), cold, then warm ...")
        cold, warm = run(guest, image, "cold"), run(guest, image, "warm")
        for one in (cold, warm):
            check(one.answer, source)
    except (debian.PackageError, KernelError, ProgramError, BackendError, GuestError) as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        return 1
    blob_bytes = sum(f.st_size for f in regular_files(image.blob_dir))
    answer = cold.answer
    console.print()
    console.print(image_table(image, build_s))
    console.print(run_table(cold, warm, blob_bytes))
    console.print(
        f"The guest's Python {answer.python} found {answer.zones} time zones in Europe.\n"
        f"The {len(answer.files)} module files that it loaded have the bytes of the source.\n"
        f"The image is in {WORK.relative_to(debian.REPO)}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
