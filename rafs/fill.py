"""What threads do for a fetch: decode, verify and write chunks, or find that they lie there already.

Every chunk that is filled is registered with its blob's guard (`begin`) and stands in `Outcome.begun`, so
that whoever takes the outcome ends that, after the READY bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rafs.blob_meta import Chunk
from rafs.blob_tail import DigestOf
from rafs.codec import chunk_digest, decode_chunk, verify_chunk
from rafs.codes import Buffer, Compressor
from rafs.dedup import Dedup, Found
from rafs.errors import CacheError, RafsError
from rafs.governor import Governor
from rafs.open_blob import OpenBlob


@dataclass(slots=True)
class Outcome:
    """What one piece of work came to. Made in a thread, read on the loop."""

    begun: list[int] = field(default_factory=list)
    on_disk: list[Chunk] = field(default_factory=list)
    in_memory: list[Chunk] = field(default_factory=list)
    failed: list[tuple[int, RafsError]] = field(default_factory=list)
    unverified: int = 0

    @property
    def done(self) -> int:
        return len(self.on_disk) + len(self.in_memory)


def decode(
    blob: OpenBlob,
    governor: Governor,
    offset: int,
    data: bytes,
    chunks: list[Chunk],
    digest_of: DigestOf | None,
) -> Outcome:
    """Decode, verify and write chunks out of `data`, which was read at `offset` of the stored blob."""
    outcome = Outcome()
    record = blob.meta.record
    view = memoryview(data)
    for chunk in chunks:
        start = chunk.compressed_offset - offset
        stored = view[start : start + chunk.compressed_size]
        try:
            compressor = record.compressor if chunk.is_compressed else Compressor.NONE
            plain = decode_chunk(stored, compressor=compressor, size=chunk.uncompressed_size)
            expected = digest_of(chunk.chunk_idx) if digest_of else None
            if expected is None:
                outcome.unverified += 1
            else:
                verify_chunk(plain, record.digester, expected)
            write(blob, governor, chunk, plain, outcome)
        except RafsError as error:
            outcome.failed.append((chunk.chunk_idx, error))
    return outcome


def write(
    blob: OpenBlob,
    governor: Governor,
    chunk: Chunk,
    plain: Buffer,
    outcome: Outcome,
    found: Found | None = None,
) -> None:
    """Write one verified chunk where there is room for it. Raises CacheError."""
    blob.space.guard.begin(chunk.chunk_idx)
    outcome.begun.append(chunk.chunk_idx)
    place = outcome.on_disk if governor.write(blob.space, chunk, plain, found) else outcome.in_memory
    place.append(chunk)


def copy_from_others(
    blob: OpenBlob, governor: Governor, dedup: Dedup, chunks: list[Chunk], digest_of: DigestOf
) -> Outcome:
    """Take chunks from other blobs of the cache directory that have them; those that none has are left."""
    outcome = Outcome()
    digester = blob.meta.record.digester
    with dedup.look(blob.blob_id) as look:
        for chunk in chunks:
            expected = digest_of(chunk.chunk_idx)
            found = look.find(chunk, digester, expected) if expected is not None else None
            if found is not None:
                try:
                    write(blob, governor, chunk, found.plain, outcome, found)
                except RafsError as error:
                    outcome.failed.append((chunk.chunk_idx, error))
            look.let_go()
    done = outcome.on_disk + outcome.in_memory
    governor.add("deduplicated_chunks", len(done))
    governor.add("deduplicated_bytes", sum(chunk.uncompressed_size for chunk in done))
    governor.add("saved_bytes", sum(chunk.compressed_size for chunk in done))
    return outcome


def salvage(blob: OpenBlob, chunks: list[Chunk], digest_of: DigestOf) -> Outcome:
    """Find chunks whose right bytes lie in the data file without a READY bit (`on_disk`)."""
    outcome = Outcome()
    for chunk in chunks:
        expected = digest_of(chunk.chunk_idx)
        if expected is None:
            continue
        blob.space.guard.begin(chunk.chunk_idx)
        outcome.begun.append(chunk.chunk_idx)
        data = blob.cache.read_unmarked(chunk)
        if data is not None and chunk_digest(data, blob.meta.record.digester) == expected:
            outcome.on_disk.append(chunk)
    if outcome.on_disk:
        try:
            blob.cache.prepare()
        except CacheError:  # no READY bit can be set on the disk: they are fetched, and served from memory
            outcome.on_disk.clear()
    return outcome
