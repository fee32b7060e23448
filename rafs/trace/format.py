"""A trace of an image: which chunks were read, in the order of their first access; and its file.

    header   struct vfs_trace_header (native/decl/trace_format.h), 128 bytes
    body     zstd, `body_size` bytes: `blob_count` blob ids of 64 hex characters, then `record_count` times
             struct vfs_trace_record, 48 bytes each, in order

The header has the SHA-256 of itself (with zeros in its place) and of the body as it is stored: a file that
was cut or changed anywhere is refused before it is unpacked. The counts bound what that gives. A chunk is
named by the id of its blob and its index there, so a trace serves every image that has the blob;
`image_sha256` tells of which bootstrap the nids are. A version that is not ours is refused. No chunk occurs
twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from native.trace import (
    MAX_TRACE_BLOBS,
    MAX_TRACE_RECORDS,
    TRACE_HEADER,
    TRACE_MAGIC,
    TRACE_MISSED,
    TRACE_RECORD,
    TRACE_VERSION,
)
from rafs.trace.errors import TraceError

BLOB_ID_SIZE = 64
MAX_FILE_SIZE = TRACE_HEADER.size + MAX_TRACE_BLOBS * BLOB_ID_SIZE + MAX_TRACE_RECORDS * TRACE_RECORD.size
_BLOB_ID = re.compile(rb"[0-9a-f]{64}")


class Access(NamedTuple):
    """The first access to a chunk: `length` bytes at `file_offset` of the file `nid`.

    `time_ns` counts from the start of the recording. `runs`: of the trace's runs, those that read the chunk.
    A merged trace has no `pid` and `uid`.
    """

    time_ns: int
    nid: int
    file_offset: int
    length: int
    blob_index: int
    chunk_index: int
    pid: int = 0
    uid: int = 0
    runs: int = 1
    flags: int = 0

    @property
    def missed(self) -> bool:
        """Whether the reader had to wait for the chunk."""
        return bool(self.flags & TRACE_MISSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """`blobs` are ids, which `Access.blob_index` counts. Times: Unix seconds, nanoseconds."""

    blobs: tuple[str, ...]
    accesses: tuple[Access, ...]
    image_sha256: bytes
    runs: int = 1
    dropped: int = 0
    started_at_s: int = 0
    duration_ns: int = 0


def parse_accesses(records: bytes) -> tuple[Access, ...]:
    """The records of a body, or of `TraceLog.read`. Raises struct.error for a part of one."""
    return tuple(Access(*TRACE_RECORD.parse(records, at)) for at in range(0, len(records), TRACE_RECORD.size))


def pack_trace(trace: Trace) -> bytes:
    """The file. Raises TraceError when it would be larger than may be read again."""
    import zstandard

    if len(trace.blobs) > MAX_TRACE_BLOBS or len(trace.accesses) > MAX_TRACE_RECORDS:
        raise TraceError(f"a trace of {len(trace.accesses)} chunks of {len(trace.blobs)} blobs is too large")
    body = "".join(trace.blobs).encode() + _pack_accesses(trace.accesses)
    packed = zstandard.ZstdCompressor(level=9).compress(body)
    fields: dict[str, int | bytes] = {
        "magic": TRACE_MAGIC,
        "version": TRACE_VERSION,
        "blob_count": len(trace.blobs),
        "record_count": len(trace.accesses),
        "runs": trace.runs,
        "dropped": trace.dropped,
        "started_at_s": trace.started_at_s,
        "duration_ns": trace.duration_ns,
        "body_size": len(packed),
        "image_sha256": trace.image_sha256,
    }
    digest = hashlib.sha256(TRACE_HEADER.pack(**fields) + packed).digest()
    return TRACE_HEADER.pack(**fields, sha256=digest) + packed


def _pack_accesses(accesses: Iterable[Access]) -> bytes:
    return b"".join(TRACE_RECORD.pack(**access._asdict()) for access in accesses)


def parse_trace(content: bytes) -> Trace:
    """Parse a file. Raises TraceError."""
    if len(content) < TRACE_HEADER.size:
        raise TraceError(f"{len(content)} bytes are too few for a trace")
    header = TRACE_HEADER.parse(content)
    if header.magic != TRACE_MAGIC:
        raise TraceError("it is not a trace: the magic number is wrong")
    if header.version != TRACE_VERSION:
        raise TraceError(f"it is a trace of version {header.version}; this program knows {TRACE_VERSION}")
    if header.blob_count > MAX_TRACE_BLOBS or header.record_count > MAX_TRACE_RECORDS:
        raise TraceError(f"{header.record_count} chunks of {header.blob_count} blobs are too many")
    ids_size = header.blob_count * BLOB_ID_SIZE
    packed = content[TRACE_HEADER.size :]
    if len(packed) != header.body_size:
        raise TraceError(f"it is damaged: {len(packed)} bytes after the header, not {header.body_size}")
    blank = TRACE_HEADER.pack(**{**header._asdict(), "sha256": b""})
    if hashlib.sha256(blank + packed).digest() != header.sha256:
        raise TraceError("it is damaged: the checksum is wrong")
    body = _unpack(packed, ids_size + header.record_count * TRACE_RECORD.size)
    ids = [body[at : at + BLOB_ID_SIZE] for at in range(0, ids_size, BLOB_ID_SIZE)]
    accesses = parse_accesses(body[ids_size:])
    _check(ids, accesses, header.runs)
    return Trace(
        blobs=tuple(blob_id.decode() for blob_id in ids),
        accesses=accesses,
        image_sha256=header.image_sha256,
        runs=header.runs,
        dropped=header.dropped,
        started_at_s=header.started_at_s,
        duration_ns=header.duration_ns,
    )


def _unpack(packed: bytes, size: int) -> bytes:
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=False)
        body = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise TraceError(f"it is damaged: {error}") from None
    if len(body) != size:
        raise TraceError(f"it is damaged: {len(body)} bytes unpacked, not {size}")
    return bytes(body)


def _check(ids: list[bytes], accesses: tuple[Access, ...], runs: int) -> None:
    """What a trace with a right checksum can have wrong, when it was made by others."""
    if not all(_BLOB_ID.fullmatch(blob_id) for blob_id in ids):
        raise TraceError("it names a blob that cannot be one")
    if any(access.blob_index >= len(ids) for access in accesses):
        raise TraceError("it has a chunk of a blob that it does not name")
    if len({(access.blob_index, access.chunk_index) for access in accesses}) != len(accesses):
        raise TraceError("it has a chunk twice")
    if runs < 1 or any(not 1 <= access.runs <= runs for access in accesses):
        raise TraceError("it has a chunk that was read in more runs than there are, or in none")
