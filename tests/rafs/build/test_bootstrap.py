"""The worked example of the format specification, section 10, byte by byte where our choices are the same.

They differ in four things: we write a TOC and a digest section into the blob (so features, sizes, the blob's
id and the place of its CI differ), set the flag that says so, and leave the optional CRC32C out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from array import array
from pathlib import Path

import pytest

from rafs.build import BuildOptions, build_image
from rafs.build.bootstrap import chunk_format, encode_rdev
from rafs.build.chunks import ChunkStore, chunk_key
from rafs.build.tree import Inode

#: offset -> bytes; what lies between is zero. Lines that differ are in OURS.
EXAMPLE = """
0400  e2e1f5e0 00000000 00000040 0c 00 8000
0410  0300000000000000 0000000000000000
0420  00000000 01000000 02000000 00000000
0450  0c000000 0000 0100 0b00
0488  0010000000000000 00010000 00001000
0498  0040000000000000 5000000000000000
05c0  01000000 80000000
1040  00000000 00001000 01000000 00000000
1060  0010000000000000
1078  1000000000000000 1000000000000000
3000  0500 0000 ed41 0000 3900000000000000
3010  03000000 01000000 00000000 00000000
3020  0000000000000000 00000000 02000000
3040  8000000000000000 3000 02 00
304c  8000000000000000 3100 02 00
3058  8400000000000000 3300 01 00
3064  8700000000000000 3800 07 00
3070  2e 2e2e 612e747874 62
3080  0900 0000 a481 0000 0500000000000000
3090  28000000 02000000 00000000 00000000
30a0  00f1536500000000 00000000 01000000
30c0  0000 0100 00000000
30e0  0500 0000 ffa1 0000 0500000000000000
30f0  03000000 03000000 00000000 00000000
3100  00f1536500000000 00000000 01000000
3120  612e747874
4000  2cf24dba5fb0a30e26e83b2ac5b9e29e
4010  1b161e5c1fa7425e73043362938b9824
4028  05000000 05000000
4030  0000000000000000 0000000000000000
"""


def example_source(root: Path) -> Path:
    root.mkdir()
    (root / "a.txt").write_bytes(b"hello")
    (root / "b").symlink_to("a.txt")
    for name, seconds in (("a.txt", 1_700_000_000), ("b", 1_700_000_000), (".", 0)):
        os.utime(root / name, (seconds, seconds), follow_symlinks=False)
    (root / "a.txt").chmod(0o644)
    root.chmod(0o755)
    return root


def test_worked_example(tmp_path: Path) -> None:
    source = example_source(tmp_path / "source")
    options = BuildOptions(compressor="none", digester="sha256")
    result = build_image(source, tmp_path / "image.boot", tmp_path, options)
    assert result.blob is not None and result.blob_path is not None
    blob = result.blob_path.read_bytes()
    blob_id = result.blob.blob_id.encode()
    assert hashlib.sha256(blob).hexdigest().encode() == blob_id

    expected = bytearray(20480)
    for line in EXAMPLE.split("\n")[1:-1]:
        offset, content = line.split(maxsplit=1)
        data = bytes.fromhex(content)
        expected[int(offset, 16) : int(offset, 16) + len(data)] = data
    ours = {
        0x480: struct.pack("<Q", 0x1000119),  # flags: as in the example, and every blob has its digests
        0x580: blob_id,
        0x1000: blob_id,
        0x1050: struct.pack("<II", 1, 0x7000_0021),  # sha256, features
        0x1058: struct.pack("<Q", len(blob)),
        0x1068: struct.pack("<IIQ", 1024, 0, 4096 + 512),  # TOC size, CI codec, CI offset
        0x1088: hashlib.sha256(blob[-1024:]).digest(),
        0x4024: bytes(4),  # flags of the chunk: no CRC
    }
    for at, data in ours.items():
        expected[at : at + len(data)] = data
    image = result.bootstrap_path.read_bytes()
    wrong = [
        f"{at:#06x}: {image[at]:02x}, not {expected[at]:02x}"
        for at in range(20480)
        if image[at] != expected[at]
    ]
    assert len(image) == 20480 and wrong == []

    # the CI of the example, at its other place: section 10.1
    ci = 4096 + 512
    assert blob[:5] == b"hello"
    assert blob[ci : ci + 16] == bytes.fromhex("0000000000400000" * 2)
    assert blob[ci + 16 : ci + 32] == bytes.fromhex("0bb10bb1 21000070 00000000 01000000")
    assert blob[ci + 32 : ci + 56] == struct.pack("<QQQ", ci, 16, 16)
    assert blob[ci + 4108 : ci + 4112] == bytes.fromhex("0bb10bb1")


@pytest.mark.parametrize(
    ("rdev", "encoded"),
    [((1, 3), 0x0103), ((0, 0), 0), ((8, 257), 0x0010_0801), ((4095, 0xFFFFF), 0xFFFF_FFFF)],
)
def test_device_numbers(rdev: tuple[int, int], encoded: int) -> None:
    assert encode_rdev(os.makedev(*rdev)) == encoded


@pytest.mark.parametrize(
    ("chunks", "size", "extent_bits"),
    [
        ([], 0, 16),
        ([0], 5, 16),
        ([0, 1], 70_000, 17),
        ([0, 1, 2], 3 << 16, 18),
        ([0, 1, 2, 3], 4 << 16, 18),
        ([0, 2], 70_000, 16),  # a gap
        ([1, 0], 70_000, 16),  # backwards
        ([1, 1], 2 << 16, 16),  # repeated
    ],
)
def test_extent_size_of_a_file(chunks: list[int], size: int, extent_bits: int) -> None:
    """64 KiB chunks; the stored bits count from 4 KiB."""
    store = ChunkStore()
    for number in range(4):
        store.add(chunk_key(bytes([number]) * 32, 1 << 16), 1 << 16, number << 16, 1 << 16, 0)
    inode = Inode(b"", 1, stat.S_IFREG, 0, 0, size, 0, 0, (0, 0, 0, 0, 0), chunks=array("I", chunks))
    assert chunk_format(inode, store, 1 << 16) == 0x20 | (extent_bits - 12)


@pytest.mark.parametrize(
    ("compressor", "digester", "flags"),
    [("none", "sha256", 0x9), ("lz4_block", "blake3", 0x6), ("zstd", "blake3", 0x84)],
)
@pytest.mark.parametrize("has_xattrs", [False, True])
def test_filesystem_flags(
    tmp_path: Path, compressor: str, digester: str, flags: int, has_xattrs: bool
) -> None:
    """Format section 2.4: owners, inlined digests and no encryption are always said."""
    source = example_source(tmp_path / "source")
    if has_xattrs:
        os.setxattr(source / "a.txt", "user.name", b"value")
    result = build_image(source, tmp_path / "image.boot", tmp_path, BuildOptions(compressor, digester))
    (found,) = struct.unpack_from("<Q", result.bootstrap_path.read_bytes(), 0x480)
    assert found == flags | 0x100_0110 | (0x20 if has_xattrs else 0)
