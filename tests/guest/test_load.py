"""Programs made to break file systems, on a shared directory: fio that verifies, and stress-ng."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.guest.backend import Image
from tests.guest.tools import run_in_tools
from tests.guest.vm import Guest

#: each job writes in its own way, then reads all of it and compares checksums
FIO = """
mkdir fio
cat >/tmp/jobs <<END
[global]
directory=/srv/fio
size={size}
verify=crc32c
verify_fatal=1
[sync]
rw=randwrite
bsrange=512-64k
bs_unaligned
[direct]
stonewall
rw=randwrite
bs=4k
ioengine=libaio
iodepth=16
direct=1
[mmap]
stonewall
rw=randwrite
bs=4k
ioengine=mmap
[mixed]
stonewall
rw=randrw
bsrange=1k-256k
fsync=32
[append]
stonewall
rw=write
bs=100k
file_append=1
END
fio --minimal /tmp/jobs
"""
#: kernel features that are not a file system's to have, and those that FUSE has no requests for
NOT_HERE = "binderfs,fiemap,verity"
STRESS = """
mkdir stress
cd stress
stress-ng --class filesystem --exclude {without} --seq 1 --timeout {seconds} --verify --temp-path . 2>&1
"""


def fio(guest: Guest, image: Image, work: Path, size: str, timeout_s: float) -> None:
    share = work / "share"
    share.mkdir()
    lines = run_in_tools(guest, image, share, FIO.format(size=size), work, timeout_s=timeout_s).check().lines
    jobs = [line.split(";") for line in lines if line.count(";") > 50]
    assert [(job[2], job[4]) for job in jobs] == [
        (name, "0") for name in ("sync", "direct", "mmap", "mixed", "append")
    ]


def test_fio_verifies_a_little(large_guest: Guest, tools_image: Image, tmp_path: Path) -> None:
    fio(large_guest, tools_image, tmp_path, "1m", timeout_s=120)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_fio_verifies(large_guest: Guest, tools_image: Image, tmp_path: Path) -> None:
    fio(large_guest, tools_image, tmp_path, "64m", timeout_s=1100)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_stress_of_file_systems(large_guest: Guest, tools_image: Image, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    script = STRESS.format(without=NOT_HERE, seconds=4)
    result = run_in_tools(large_guest, tools_image, share, script, tmp_path, timeout_s=800)
    said = result.stdout.decode()
    assert result.status == 0, said[-3000:]
    assert re.search(r"successful run completed", said)
    assert not re.search(r"stress-ng: fail|skipping", said), said[-3000:]
