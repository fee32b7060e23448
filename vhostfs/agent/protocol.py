"""What a worker and its agent say to each other. Bytes to values and back; no IO.

Each message is one packet of a SOCK_SEQPACKET socket: msgpack of at most MAX_MESSAGE bytes, with the file
descriptors that FDS allows. The worker begins with Hello, which the agent answers with Welcome or Refused;
then each request is answered once, by the number of its call, in any order. The agent trusts nothing
that a worker sends; the worker trusts its agent, which writes what it serves.

What is said by the rings besides: native/c/link.h.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from rafs.blob_record import BlobRecord
from rafs.limits import CacheLimits
from rafs.metered import BackendStatistics
from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.statistics import PrefetchStatistics

#: of the messages below; both ends must have the same, as both are of one installation
VERSION = 1
#: a configuration with many mirrors has some KiB
MAX_MESSAGE = 128 << 10
#: files that a back-end reads by name, and the digests of a blob
MAX_FDS = 32


class ProtocolError(Exception):
    """The other end broke the protocol; nothing more that it says can be used."""


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """What all messages have: how many descriptors come with them, (least, most)."""

    FDS: ClassVar[tuple[int, int]] = (0, 0)


class BlobEntry(Struct, frozen=True):
    """A blob table entry: the fields of `struct rafs_v6_blob` that BlobRecord.parse reads."""

    blob_id: str
    blob_index: int
    chunk_size: int
    chunk_count: int
    compression_algo: int
    digest_algo: int
    features: int
    compressed_size: int
    uncompressed_size: int
    toc_size: int
    toc_digest: bytes
    ci_compressor: int
    ci_offset: int
    ci_compressed_size: int
    ci_uncompressed_size: int
    fs_version: int
    cipher_algo: int = 0

    @classmethod
    def of(cls, record: BlobRecord) -> BlobEntry:
        return cls(
            blob_id=record.blob_id,
            blob_index=record.blob_idx,
            chunk_size=record.chunk_size,
            chunk_count=record.chunk_count,
            compression_algo=int(record.compressor),
            digest_algo=int(record.digester),
            features=int(record.features),
            compressed_size=record.compressed_size,
            uncompressed_size=record.uncompressed_size,
            toc_size=record.toc_size,
            toc_digest=record.toc_digest or b"",
            ci_compressor=int(record.ci_compressor),
            ci_offset=record.ci_offset,
            ci_compressed_size=record.ci_compressed_size,
            ci_uncompressed_size=record.ci_uncompressed_size,
            fs_version=record.fs_version,
        )

    def record(self) -> BlobRecord:
        """Checked again. Raises ImageCorrupt, ImageUnsupported."""
        return BlobRecord.parse(self, fs_version=self.fs_version)


# from the worker


class Hello(Message, frozen=True, tag="hello"):
    """With the descriptors of RingFds, in order."""

    version: int
    FDS: ClassVar[tuple[int, int]] = (3, 3)


class OpenBlob(Message, frozen=True, tag="open"):
    """Serve a blob, which the worker's rings call `handle`; answered by Opened.

    `backend`: encode_backend. `settings`: SETTINGS of vhostfs/mounts.py that go before it. `files`: paths in
    it; a descriptor of each comes along, which is read in its place. `told`: what the bootstrap says of the
    blob's chunks comes in a sealed memfd, the last descriptor (`bootstrap.py`). `limits`: those of the cache.
    """

    call: int
    handle: int
    backend: bytes
    settings: dict[str, str]
    files: list[str]
    entry: BlobEntry
    told: Literal["", "digests", "records"]
    limits: CacheLimits
    FDS: ClassVar[tuple[int, int]] = (0, MAX_FDS)


class CloseBlob(Message, frozen=True, tag="close"):
    """Serve it no more; answered by Done."""

    call: int
    handle: int


class Adjust(Message, frozen=True, tag="adjust"):
    """New settings for the back-ends of these blobs; answered by Done."""

    call: int
    handles: list[int]
    settings: dict[str, str]


class Prefetch(Message, frozen=True, tag="prefetch"):
    """Fetch chunks of these blobs ahead; answered by Done. `number` is the worker's name for it.

    The descriptor is a sealed memfd with the stages of the plan (`bootstrap.py`).
    """

    call: int
    number: int
    handles: list[int]
    options: PrefetchOptions
    FDS: ClassVar[tuple[int, int]] = (1, 1)


class StopPrefetch(Message, frozen=True, tag="stop"):
    """Fetch no more ahead, before blobs are closed; answered by Done."""

    call: int
    number: int


class AskFigures(Message, frozen=True, tag="figures?"):
    """What was counted for these blobs and a prefetch, 0: none; answered by Figures."""

    call: int
    handles: list[int]
    prefetch: int


Request = Hello | OpenBlob | CloseBlob | Adjust | Prefetch | StopPrefetch | AskFigures

# from the agent


class Welcome(Message, frozen=True, tag="welcome"):
    version: int


class Opened(Message, frozen=True, tag="opened"):
    """With descriptors of the data file, the chunk map, blob.meta, and of data file and chunk map of the area
    in memory, all for reading only; and of the bitmap of visited chunks, for writing too."""

    call: int
    FDS: ClassVar[tuple[int, int]] = (6, 6)


class Done(Message, frozen=True, tag="done"):
    call: int


class Refused(Message, frozen=True, tag="refused"):
    """`reason` is a sentence for people. Call 0: the agent has no use for this worker."""

    call: int
    reason: str


class BackendFigures(Struct, frozen=True):
    """rafs.metered.BackendStatistics."""

    reads: int
    errors: int
    errors_by_kind: dict[str, int]
    read_bytes: int
    seconds: float
    reads_by_size: list[int]
    seconds_by_size: list[float]
    reads_by_latency_and_size: list[list[int]]

    @classmethod
    def of(cls, statistics: BackendStatistics) -> BackendFigures:
        return msgspec.convert(statistics, cls, from_attributes=True)


class Figures(Message, frozen=True, tag="figures"):
    """`fetch`, `cache`, `http`: BlobStore's and Governor's statistics and HttpPool's counters, of the whole
    agent. `backend`: of the back-end of the first blob."""

    call: int
    fetch: dict[str, int]
    cache: dict[str, int]
    http: dict[str, int]
    backend: BackendFigures
    prefetch: PrefetchStatistics


Reply = Welcome | Opened | Done | Refused | Figures

_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Message) -> bytes:
    """Raises ValueError for what is too long to be sent."""
    data = msgspec.msgpack.encode(message)
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(data)} bytes for the agent; at most {MAX_MESSAGE}")
    return data


def decode_request(data: bytes, fd_count: int) -> Request:
    """What a worker sent. Raises ProtocolError."""
    request: Request = _decode(_requests, data, fd_count)
    return request


def decode_reply(data: bytes, fd_count: int) -> Reply:
    """What the agent sent. Raises ProtocolError."""
    reply: Reply = _decode(_replies, data, fd_count)
    return reply


def _decode(decoder: Any, data: bytes, fd_count: int) -> Any:
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(data)} bytes")
    try:
        message = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"no message: {type(error).__name__}") from None  # its text may have secrets
    least, most = type(message).FDS
    if not least <= fd_count <= most:
        raise ProtocolError(f"{type(message).__name__} with {fd_count} descriptors")
    if isinstance(message, OpenBlob) and fd_count != len(message.files) + bool(message.told):
        raise ProtocolError(f"{len(message.files)} files with {fd_count} descriptors")
    return message
