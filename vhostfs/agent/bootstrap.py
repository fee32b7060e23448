"""What a bootstrap says, on its way to the agent, which has none: in memfds that nobody can change.

Of the chunks of a blob, v6: the digest of each, 32 bytes, zeros where there is none; v5: `struct
rafs_chunk_record`s. Of what to prefetch: msgpack of rafs.prefetch.plan's stages.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Literal

import msgspec

from rafs.blob_record import BlobRecord
from rafs.chunk_table import BootstrapChunks
from rafs.codes import DIGEST_SIZE
from rafs.prefetch.plan import Stage

Told = Literal["", "digests", "records"]
#: what `rafs.Image.bootstrap_chunks` returns
Chunks = BootstrapChunks | dict[int, bytes] | None

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
#: for each chunk of a blob; a record of v5 has 80
_MAX_BYTES_A_CHUNK = 96
#: a run has some 12, and a plan a million of them
_MAX_PLAN = 32 << 20


def pack_chunks(record: BlobRecord, chunks: Chunks) -> tuple[Told, int]:
    """What it is, and a sealed memfd with it, the caller's to close; -1 for nothing. Raises OSError."""
    if not chunks:
        return "", -1
    if isinstance(chunks, BootstrapChunks):
        return "records", _sealed(chunks.records)
    table = bytearray(DIGEST_SIZE * record.chunk_count)
    for index, digest in chunks.items():
        if index < record.chunk_count:
            table[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE] = digest
    return "digests", _sealed(table)


def unpack_chunks(record: BlobRecord, told: Told, fd: int) -> SealedDigests | BootstrapChunks | None:
    """What `pack_chunks` packed, for BlobStore.open_blob; `fd` stays the caller's.

    Raises OSError (EINVAL) for what could change while we rely on it.
    """
    if not told:
        return None
    size = _check_sealed(fd, record.chunk_count * _MAX_BYTES_A_CHUNK, f"blob {record.blob_id}")
    if told == "records":
        return BootstrapChunks(os.pread(fd, size, 0))
    return SealedDigests(mmap.mmap(fd, size, prot=mmap.PROT_READ))


class SealedDigests:
    """Chunk index to digest; None where the bootstrap has none."""

    def __init__(self, table: mmap.mmap) -> None:
        self._table = table

    def __call__(self, chunk_idx: int) -> bytes | None:
        digest = self._table[chunk_idx * DIGEST_SIZE : (chunk_idx + 1) * DIGEST_SIZE]
        return digest if len(digest) == DIGEST_SIZE and any(digest) else None


def pack_plan(plan: Sequence[Stage]) -> int:
    """A sealed memfd with a plan, the caller's to close. Raises OSError."""
    return _sealed(msgspec.msgpack.encode(plan))


def unpack_plan(fd: int) -> list[Stage]:
    """Raises OSError (EINVAL) for what is no plan, or could change; `fd` stays the caller's."""
    data = os.pread(fd, _check_sealed(fd, _MAX_PLAN, "prefetch"), 0)
    try:
        return msgspec.msgpack.decode(data, type=list[Stage])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OSError(errno.EINVAL, "prefetch: what comes with it is no plan") from error


def _sealed(data: bytes | bytearray) -> int:
    fd = os.memfd_create("vhostfs-said", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_sealed(fd: int, most: int, what: str) -> int:
    """The size of a memfd that can be relied on. Raises OSError (EINVAL)."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    size = os.fstat(fd).st_size
    if seals & _SEALS != _SEALS or not 0 < size <= most:
        raise OSError(errno.EINVAL, f"{what}: what comes with it is not sealed, or has not the right size")
    return size
