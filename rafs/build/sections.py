"""The framing of a data blob: tar headers behind the sections, and the table of contents. Pure functions.

Each section is followed by one 512-byte GNU tar header that describes it, without padding (format section
1.3); the TOC, itself the last section, has one 128-byte entry for each piece (format section 1.4).
"""

from __future__ import annotations

import hashlib

from native.records import Record

BLOB_DATA = b"image.blob"
CI_DATA = b"blob.meta"
CI_HEADER = b"blob.meta.header"
CHUNK_DIGESTS = b"blob.digest"
TOC = b"rafs.blob.toc"

TAR_HEADER_SIZE = 512
_MAX_OCTAL = 0o77777777777
_ENTRY = Record("rafs_toc_entry")


def pack_tar_header(name: bytes, size: int) -> bytes:
    """Return the header of section `name` of `size` bytes."""
    header = bytearray(TAR_HEADER_SIZE)
    header[0 : len(name)] = name
    # past 8 GiB GNU tar writes a binary number with the high bit set
    header[124:136] = b"%011o\0" % size if size <= _MAX_OCTAL else b"\x80" + size.to_bytes(11, "big")
    header[136:148] = b"%011o\0" % 0
    header[148:156] = b" " * 8  # counted as spaces in the checksum
    header[156:157] = b"0"
    header[257:265] = b"ustar  \0"
    header[148:156] = b"%07o\0" % sum(header)
    return bytes(header)


def pack_toc_entry(
    name: bytes, *, flags: int, digest: bytes, offset: int, stored_size: int, uncompressed_size: int
) -> bytes:
    """Return one entry; `digest` is the SHA-256 of the plain content, for BLOB_DATA of the stored one."""
    return _ENTRY.pack(
        flags=flags,
        name=name,
        digest=digest,
        offset=offset,
        stored_size=stored_size,
        uncompressed_size=uncompressed_size,
    )


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
