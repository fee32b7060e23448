"""A Debian source package is unpacked and built in a shared directory, with tools that run from an image."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.guest import debian
from tests.guest.backend import Image
from tests.guest.tools import run_in_tools
from tests.guest.vm import Guest

UNPACK = """
tar xf *.orig.tar.bz2
cd zlib-*
tar xf ../*.debian.tar.xz
while read -r patch; do patch -s -p1 <debian/patches/$patch; done <debian/patches/series
"""
BUILD_SOME = """
CFLAGS=-O0 ./configure --static
make -s adler32.o zutil.o crc32.o
ar rc some.a *.o
nm some.a | grep -c " T "
"""
BUILD_ALL = """
./configure
make -s
make -s test
make -s clean
! ls *.o
"""


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return Path(shutil.copytree(debian.source_package("zlib"), tmp_path / "share"))


def build(guest: Guest, image: Image, share: Path, script: str, timeout_s: float) -> list[str]:
    result = run_in_tools(guest, image, share, UNPACK + script, share.parent, timeout_s=timeout_s).check()
    check_unpacked(share)
    return result.lines


def check_unpacked(share: Path) -> None:
    """The files have the bytes that the archive has, but for those that a patch or a build changes."""
    (archive,) = share.glob("*.orig.tar.bz2")
    (folder,) = share.glob("zlib-*")
    same = others = 0
    with tarfile.open(archive) as members:
        for member in members:
            name = Path(*Path(member.name).parts[1:])
            if member.isfile():
                stored = members.extractfile(member)
                assert stored
                if digest(stored.read()) == digest((folder / name).read_bytes()):
                    same += 1
                else:
                    others += 1
    assert same > 90
    assert others < 10


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_unpack_and_build_some(large_guest: Guest, tools_image: Image, share: Path) -> None:
    lines = build(large_guest, tools_image, share, BUILD_SOME, timeout_s=200)
    assert int(lines[-1]) > 10
    (library,) = share.glob("zlib-*/some.a")
    assert library.read_bytes().startswith(b"!<arch>\n")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_unpack_build_and_test_all(large_guest: Guest, tools_image: Image, share: Path) -> None:
    said = "\n".join(build(large_guest, tools_image, share, BUILD_ALL, timeout_s=1700))
    assert said.count("test OK") == 3
