"""A guest's memory: plugged and unplugged under reads, and made of huge pages (contract 7, row 15)."""

from __future__ import annotations

import fcntl
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.backend import Image
from tests.guest.monitor import Monitor
from tests.guest.nydusd import Nydusd
from tests.guest.steps import SteppedGuest
from tests.guest.vm import Guest

FILE_MIB = 12
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")

START = """
set -e
mkdir /share /mnt/steps
mount -t virtiofs $TAG /share
mount --bind /share/containers/steps /mnt/steps
image=/share/rafs/one/lowerdir/big shared=/share/containers/big
"""
#: pages of files in memory that can be taken away again, which is the plugged one only
MOVABLE = r"""
movable() {
    awk '/zone +Movable/ { here = 1 } here && /nr_zone_(in)?active_file/ { n += $2 } END { print n + 0 }' \
        /proc/zoneinfo
}
total() { awk '/MemTotal/ { print $2 }' /proc/meminfo; }
"""
PLUGGED = """
echo online_movable >/sys/devices/system/memory/auto_online_blocks
before=$(total)
( while [ ! -e /tmp/stop ]; do
    for file in $image $shared; do sha256sum <$file || exit 1; done
    echo 1 >/proc/sys/vm/drop_caches
  done ) >/tmp/sums & reader=$!
until [ -s /tmp/sums ]; do usleep 20000; done
step plug
until [ $(total) -gt $((before + 100000)) ]; do usleep 20000; done
until [ $(movable) -gt 1000 ]; do usleep 20000; done
echo "from pages of the plugged memory: $(movable)" >&2
step unplug
[ $(total) -lt $((before + 100000)) ]
seen=$(wc -l </tmp/sums)
until [ $(wc -l </tmp/sums) -ge $((seen + 4)) ]; do usleep 20000; done
: >/tmp/stop
wait $reader
sort -u /tmp/sums
"""
HUGE = """
for file in $image $shared; do sha256sum <$file; done | sort -u
cp $image /share/containers/copy
sync
grep HugePages_Total /proc/meminfo >&2
"""


@dataclass(frozen=True)
class Files:
    """The same bytes in an image and in a shared folder."""

    image: Image
    share: Path
    digest: str


@pytest.fixture
def files(tmp_path: Path) -> Files:
    data = random.Random(15).randbytes(FILE_MIB << 20)
    for folder in ("source", "share/steps", "cache"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("source", "share"):
        (tmp_path / folder / "big").write_bytes(data)
    image = Image(tmp_path / "source", tmp_path, "--compressor", "none")
    return Files(image, tmp_path / "share", hashlib.sha256(data).hexdigest())


@contextmanager
def serving(files: Files, work: Path) -> Iterator[Nydusd]:
    readable = [files.image.bootstrap, files.image.blob_dir]
    with Nydusd(work, shared=[files.share, work / "cache"], readable=readable) as daemon:
        daemon.share("/containers", files.share)
        daemon.mount("/rafs/one/lowerdir", files.image, work / "cache")
        yield daemon


def maps_of(daemon: Nydusd) -> int:
    """How many pieces of guest memory the daemon has mapped."""
    lines = Path(f"/proc/{daemon.process.pid}/maps").read_text().splitlines()
    return sum("memory-backend-memfd" in line for line in lines)


def test_memory_is_plugged_and_unplugged_while_files_are_read(files: Files, tmp_path: Path) -> None:
    guest, stepped = Guest(room_mib=256), SteppedGuest(files.share / "steps")
    with serving(files, tmp_path) as daemon:
        script, path = START + SteppedGuest.SCRIPT + MOVABLE + PLUGGED, tmp_path / "qmp"
        stepped.start(lambda: daemon.run(guest, script, monitor=path))
        try:
            stepped.wait("plug")
            before = maps_of(daemon)
            with Monitor(path) as monitor:
                monitor.plug_memory("more", 256)
                stepped.go("plug")
                stepped.wait("unplug")
                assert maps_of(daemon) == before + 1
                monitor.unplug_memory("more")
                assert maps_of(daemon) == before
                stepped.go("unplug")
        finally:
            stepped.join()
        assert stepped.end().lines == [f"{files.digest}  -"]


@contextmanager
def huge_pages(mib: int) -> Iterator[None]:
    """So much memory of this machine kept for huge pages, beside what is kept already."""
    with HUGE_PAGES.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of all tests of this machine
        before = int(HUGE_PAGES.read_text())
        wanted = before + mib // 2
        HUGE_PAGES.write_text(str(wanted))
        try:
            got = int(HUGE_PAGES.read_text())
            assert got >= wanted, f"this machine gave {got} huge pages of {wanted}: its memory is full"
            yield
        finally:
            HUGE_PAGES.write_text(str(before))


def test_memory_of_huge_pages(files: Files, tmp_path: Path) -> None:
    with huge_pages(384), serving(files, tmp_path) as daemon:
        result = daemon.run(Guest(memory_mib=384, huge_pages=True), START + HUGE)
        assert result.check().lines == [f"{files.digest}  -"]
    assert hashlib.sha256((files.share / "copy").read_bytes()).hexdigest() == files.digest
