"""A chunk that another blob of the cache directory holds already is not fetched again.

The index (native/c/digest_index.h) says where a digest may lie. It is filled when it is first asked, with
what the blobs of the directory have READY and the digests that lie beside them, and then with every chunk
that is completed. Nothing tells it of evictions and removals: what it says is looked at before it is
believed. A chunk counts as held if its READY bit is set and its bytes have the digest that is wanted.

The blob that holds a chunk, the donor, is opened for the moment, with its lease, whether or not somebody else
has it open; its chunk is registered as being filled, so that it is not evicted between the look and the copy.

Everything here blocks but `may_have` and `add`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from native.digest_index import DigestIndex
from rafs.blob_meta import Chunk
from rafs.codec import chunk_digest
from rafs.codes import Digester
from rafs.errors import RafsError
from rafs.fill_guard import FillGuard
from rafs.inventory import CHUNK_MAP, DATA, take_inventory
from rafs.verify import ChunkMapFile, stored_chunks

#: chunks that the index knows: 16 MiB
CAPACITY = 1 << 20
#: donors that one look opens
_MAX_DONORS = 64


class Donor:
    """Another blob's cache files, open for reading."""

    def __init__(self, directory: Path, blob_id: str, guard: FillGuard) -> None:
        """Raises CacheError, OSError where it cannot be one."""
        self.guard = guard
        self.data_fd = -1
        self._place = stored_chunks(directory, blob_id)
        self._map = ChunkMapFile(directory / f"{blob_id}.{CHUNK_MAP}", self._place.count)
        self._map.hold_lease()
        try:
            path = directory / f"{blob_id}.{DATA}"
            self.data_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            self._map.close()
            raise

    def read(self, chunk_idx: int, size: int) -> tuple[int, bytes] | None:
        """(offset in the data file, bytes) of a chunk of that size, if it is READY. Raises OSError."""
        if chunk_idx >= self._place.count or not self._map.is_ready(chunk_idx):
            return None
        offset, own_size = self._place.place(chunk_idx)
        return (offset, os.pread(self.data_fd, size, offset)) if own_size == size else None

    def close(self) -> None:
        self._map.close()
        os.close(self.data_fd)


class Found:
    """The bytes of a wanted chunk, and where they lie: `fd` and `offset`, until the look is over."""

    __slots__ = ("fd", "offset", "plain")

    def __init__(self, plain: bytes, fd: int, offset: int) -> None:
        self.plain, self.fd, self.offset = plain, fd, offset


class Dedup:
    """Of one cache directory; `guard_of` gives the guard of a blob, whoever has it open."""

    def __init__(
        self, directory: Path, guard_of: Callable[[str], FillGuard], *, capacity: int = CAPACITY
    ) -> None:
        self._directory = directory
        self._guard_of = guard_of
        self._index = DigestIndex(capacity)
        self._lock = threading.Lock()
        self._is_filled = False
        self._blob_ids: list[str] = []
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        """Nobody looks any more."""
        self._index.close()

    def add(self, blob_id: str, chunk_idx: int, digest: bytes) -> None:
        """A chunk is READY on the disk."""
        self._index.add(digest, self._number(blob_id), chunk_idx)

    def may_have(self, digest: bytes) -> bool:
        """Whether it is worth a look. Before the first one it always is."""
        return not self._is_filled or bool(self._index.find(digest))

    def look(self, blob_id: str) -> Look:
        """For some chunks of one blob; a context manager."""
        self._fill()
        return Look(self, blob_id)

    def donor(self, blob_id: str) -> Donor:
        """Raises RafsError, OSError."""
        return Donor(self._directory, blob_id, self._guard_of(blob_id))

    def places(self, digest: bytes) -> Iterator[tuple[str, int]]:
        """Where it may lie: (blob id, chunk)."""
        for number, chunk in self._index.find(digest):
            yield self._blob_ids[number], chunk

    def _number(self, blob_id: str) -> int:
        with self._lock:
            number = self._numbers.setdefault(blob_id, len(self._blob_ids))
            if number == len(self._blob_ids):
                self._blob_ids.append(blob_id)
            return number

    def _fill(self) -> None:
        with self._lock:
            if self._is_filled:
                return
            self._is_filled = True
        for blob_id in take_inventory(self._directory).blobs:
            with suppress(RafsError, OSError):  # no digests, no map: nothing to give
                self._learn(blob_id)

    def _learn(self, blob_id: str) -> None:
        chunks = stored_chunks(self._directory, blob_id)
        chunk_map = ChunkMapFile(self._directory / f"{blob_id}.{CHUNK_MAP}", chunks.count)
        try:
            if chunks.digests is not None:
                number = self._number(blob_id)
                self._index.add_all(number, chunks.digests, chunk_map.ready_bits(), chunks.count)
        finally:
            chunk_map.close()


class Look:
    """Finds chunks for one blob, and keeps the donors open meanwhile."""

    def __init__(self, dedup: Dedup, blob_id: str) -> None:
        self._dedup = dedup
        self._blob_id = blob_id
        self._donors: dict[str, Donor | None] = {}
        self._held: list[tuple[FillGuard, int]] = []

    def find(self, chunk: Chunk, digester: Digester, digest: bytes) -> Found | None:
        """The right bytes of a chunk, if another one in the directory has them."""
        for blob_id, index in self._dedup.places(digest):
            if blob_id == self._blob_id and index == chunk.chunk_idx:
                continue
            donor = self._donor(blob_id)
            if donor is None:
                continue
            donor.guard.begin(index)  # not evicted until the look is over
            self._held.append((donor.guard, index))
            with suppress(OSError):
                got = donor.read(index, chunk.uncompressed_size)
                if got is not None and chunk_digest(got[1], digester) == digest:
                    return Found(got[1], donor.data_fd, got[0])
        return None

    def let_go(self) -> None:
        """What was found is copied."""
        for guard, index in self._held:
            guard.end([index])
        self._held.clear()

    def _donor(self, blob_id: str) -> Donor | None:
        if blob_id not in self._donors and len(self._donors) < _MAX_DONORS:
            self._donors[blob_id] = None
            with suppress(RafsError, OSError):
                self._donors[blob_id] = self._dedup.donor(blob_id)
        return self._donors.get(blob_id)

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        for donor in self._donors.values():
            if donor is not None:
                donor.close()
