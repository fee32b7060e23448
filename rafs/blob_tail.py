"""The metadata of one blob: its chunk records and digests, out of the cache directory or the blob's tail.

Chain of trust (spec 1.4, 3.1, 3.6): the blob table gives the SHA-256 of the TOC, the TOC that of `blob.meta`,
of its header and of `blob.digest`, and that one the digest of each chunk. Each link that the image has is
checked, whether the bytes come from the back-end or from a file in the cache. Without a TOC, `blob.meta` is
checked against the blob table, and each of its records when it is stored; digests can then only come from
the bootstrap's chunk table (`bootstrap_digests`), which also goes first where the TOC is not vouched for.

A blob whose `blob.meta` is cached opens without the back-end; what is missing for verification is then
loaded by the first fetch, which needs the back-end anyway.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from native.rafs_v6 import RAFS_TOC_STORED
from rafs.backend import BlobBackend, read_exactly
from rafs.blob_meta import BlobMeta, check_header, meta_file_size, pack_meta_file, unpack_section
from rafs.blob_record import CI_HEADER_SIZE, BlobRecord, Feature
from rafs.cache import CachedBlob
from rafs.chunk_state import Run
from rafs.chunk_table import BootstrapChunks
from rafs.codes import DIGEST_SIZE
from rafs.diskless import keep_metadata, store_if_there_is_room
from rafs.errors import CacheError, ImageCorrupt
from rafs.threads import in_thread
from rafs.toc import Toc, TocEntry, check_content, parse_toc, toc_range

log = logging.getLogger(__name__)

#: chunk index -> 32-byte digest, None where the image has none
DigestOf = Callable[[int], bytes | None]
Digests = DigestOf | Mapping[int, bytes]

_Result = TypeVar("_Result")
_HASH_STEP = 1 << 20


class Tail(Protocol):
    """What describes a blob's chunks while it is open: a BlobTail, or for RAFS v5 a ChunkTable.

    `meta_fd` is the file of records that the data plane maps, open after `load_meta`. `is_fresh`: that had to
    read it from the blob.
    """

    record: BlobRecord
    meta_fd: int
    is_fresh: bool

    async def load_meta(self) -> BlobMeta: ...

    async def load_digests(self) -> DigestOf | None: ...

    async def add_bootstrap(self, chunks: BootstrapChunks | Digests | None) -> None: ...

    def take_doubtful(self) -> list[Run]: ...

    def close(self) -> None: ...


class BlobTail:
    """Loads the metadata files of one blob and keeps them open. Used on the event loop; reads in `pool`."""

    def __init__(
        self,
        cache: CachedBlob,
        backend: BlobBackend,
        pool: Executor,
        bootstrap_digests: Digests | None = None,
    ) -> None:
        self.record: BlobRecord = cache.record
        self._cache = cache
        self._backend = backend
        self._pool = pool
        self._bootstrap_digests = bootstrap_digests
        self._is_doubtful = False
        self._toc: Toc | None = None
        self._meta_is_checked = False
        self._sources: list[DigestOf] | None = None  # None: not looked for yet
        self._loading = asyncio.Lock()
        self.meta_fd = -1
        self.is_fresh = False
        self._digest_fd = -1

    def close(self) -> None:
        """Close the files. No read is going on."""
        for fd in (self.meta_fd, self._digest_fd):
            if fd >= 0:
                os.close(fd)
        self.meta_fd = self._digest_fd = -1

    async def load_meta(self) -> BlobMeta:
        """Return the chunk records. Raises ImageCorrupt, ImageUnsupported, BlobUnavailable, CacheError."""
        if not await self._in_thread(self._open_cached_meta):
            toc = await self._load_toc()
            size = self.record.ci_compressed_size + CI_HEADER_SIZE
            await self._read(self.record.ci_offset, size, lambda section: self._store_meta(section, toc))
            self.is_fresh = True
        return BlobMeta(self.record, self._read_meta)

    async def load_digests(self) -> DigestOf | None:
        """Return where the digests of the chunks are, None when the image carries none. Loads once.

        Raises as `load_meta` does; the next call tries again.
        """
        async with self._loading:
            if self._sources is None:
                self._sources = await self._find_digests()
            return _first_of(self._sources) if self._sources else None

    async def add_bootstrap(self, chunks: BootstrapChunks | Digests | None) -> None:
        """Another image uses the blob and has a chunk table: take that if there was none."""
        assert not isinstance(chunks, BootstrapChunks)  # the record says that it is a v6 image's
        if chunks and not self._bootstrap_digests:
            self._bootstrap_digests = chunks
            self._sources = None

    def take_doubtful(self) -> list[Run]:
        """Chunks whose READY bits vouch for nothing: all, where they were not set under this image's TOC.

        Whoever first used a blob of this name may have said what is in it otherwise, and lied. What is there
        is verified before it is served.
        """
        is_doubtful, self._is_doubtful = self._is_doubtful, False
        return [(0, self.record.chunk_count)] if is_doubtful else []

    async def _find_digests(self) -> list[DigestOf]:
        toc = await self._load_toc()
        if toc is not None and not self._meta_is_checked:
            await self._in_thread(lambda: self._check_meta_in_use(toc))
        sources: list[DigestOf] = []
        given = self._bootstrap_digests
        if given:
            sources.append(given.get if isinstance(given, Mapping) else given)
        if Feature.INLINED_CHUNK_DIGEST in self.record.features:
            await self._open_digests(self._entry(toc, "blob.digest"))
            # what is vouched for by the blob table goes first: it is complete, and costs no memory
            sources.insert(0 if toc is not None and toc.is_authentic else len(sources), self._read_digest)
        return sources

    async def _open_digests(self, entry: TocEntry) -> None:
        record = self.record
        if entry.codec != RAFS_TOC_STORED or entry.stored_size != record.chunk_count * DIGEST_SIZE:
            raise ImageCorrupt(f"blob {record.blob_id}: its blob.digest has {entry.stored_size} bytes")
        if not await self._in_thread(lambda: self._open_cached_digests(entry)):
            await self._read(
                entry.offset, entry.stored_size, lambda content: self._store_digests(entry, content)
            )

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await in_thread(self._pool, work)

    async def _read(self, offset: int, length: int, use: Callable[[bytes], _Result]) -> _Result:
        """Read a range and use it in a thread; when it does not fit, once more, elsewhere if possible."""
        blob_id = self.record.blob_id
        data = await read_exactly(self._backend, blob_id, offset, length)
        try:
            return await self._in_thread(lambda: use(data))
        except ImageCorrupt as error:
            second = await read_exactly(self._backend, blob_id, offset, length, again=True)
            result = await self._in_thread(lambda: use(second))
            log.warning("%s; came right the second time", error)
            return result

    # the TOC

    async def _load_toc(self) -> Toc | None:
        record = self.record
        if self._toc is None and (Feature.HAS_TOC in record.features or record.toc_size or record.toc_digest):
            toc = await self._in_thread(self._cached_toc)
            if toc is None:
                blob_size = await self._backend.blob_size(record.blob_id)
                offset, length = toc_range(blob_size, record.toc_size)
                toc = await self._read(offset, length, lambda tail: self._store_toc(tail, blob_size))
            self._toc = toc
        return self._toc

    def _cached_toc(self) -> Toc | None:
        """Only one that the blob table vouches for: others may be of another blob or of no blob at all."""
        content = self._cache.read_metadata("toc")
        if self.record.toc_digest is None:
            return None
        if content is not None:
            try:
                return self._parse_toc(content, None)
            except ImageCorrupt as error:
                log.warning("%s: %s; reading it from the blob again", self._cache.metadata_path("toc"), error)
        self._is_doubtful = True
        return None

    def _store_toc(self, tail: bytes, blob_size: int) -> Toc:
        toc = self._parse_toc(tail, blob_size)
        store_if_there_is_room(self._cache, "toc", tail, verified_on_use=True)
        return toc

    def _parse_toc(self, tail: bytes, blob_size: int | None) -> Toc:
        record = self.record
        try:
            size = 1 << 62 if blob_size is None else blob_size
            return parse_toc(tail, size, toc_size=record.toc_size, toc_digest=record.toc_digest)
        except ImageCorrupt as error:
            raise ImageCorrupt(f"blob {record.blob_id}: {error}") from None

    def _entry(self, toc: Toc | None, name: str) -> TocEntry:
        entry = toc.find(name) if toc else None
        if entry is None:
            raise ImageCorrupt(
                f"blob {self.record.blob_id}: its TOC has no {name!r}, which its features promise"
            )
        return entry

    # blob.meta

    def _open_cached_meta(self) -> bool:
        if self._cache.metadata_path("chunks").exists():
            raise CacheError(
                f"{self._cache.data_path} is the cache of a RAFS v5 image; to use blob {self.record.blob_id} "
                f"in a v6 one, remove it and what stands beside it"
            )
        path = self._cache.metadata_path("meta")
        try:
            self.meta_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        size = meta_file_size(self.record)
        try:
            if (found := os.fstat(self.meta_fd).st_size) != size:
                raise ImageCorrupt(f"it has {found} bytes instead of {size}")
            check_header(self._read_meta(size - CI_HEADER_SIZE, CI_HEADER_SIZE), self.record)
            if toc := self._cached_toc():
                self._toc = toc
                self._check_meta(toc)
        except ImageCorrupt as error:
            log.warning("%s: %s; reading it from the blob again", path, error)
            os.close(self.meta_fd)
            self.meta_fd = -1
            return False
        return True

    def _store_meta(self, section: bytes, toc: Toc | None) -> None:
        plain, header = unpack_section(self.record, section)
        if toc is not None:
            self._check_meta_content(toc, plain, header)
        content = pack_meta_file(plain, header)
        if toc is None or not toc.is_authentic:
            BlobMeta(self.record, lambda offset, length: content[offset : offset + length]).check_all()
        self.meta_fd = keep_metadata(self._cache, "meta", content, verified_on_use=False)
        self._meta_is_checked = toc is not None

    def _check_meta(self, toc: Toc) -> None:
        header_at = meta_file_size(self.record) - CI_HEADER_SIZE
        plain = self._read_meta(0, self.record.ci_uncompressed_size)
        self._check_meta_content(toc, plain, self._read_meta(header_at, CI_HEADER_SIZE))
        self._meta_is_checked = True

    def _check_meta_in_use(self, toc: Toc) -> None:
        try:
            self._check_meta(toc)
        except ImageCorrupt as error:
            path = self._cache.metadata_path("meta")
            raise CacheError(f"{path} is not the blob's: {error}; remove it and restart") from None

    def _check_meta_content(self, toc: Toc, plain: bytes, header: bytes) -> None:
        try:
            check_content(self._entry(toc, "blob.meta"), plain)
            check_content(self._entry(toc, "blob.meta.header"), header)
        except ImageCorrupt as error:
            raise ImageCorrupt(f"blob {self.record.blob_id}: {error}") from None

    def _read_meta(self, offset: int, length: int) -> bytes:
        return os.pread(self.meta_fd, length, offset)

    # blob.digest

    def _open_cached_digests(self, entry: TocEntry) -> bool:
        if self._digest_fd >= 0:
            return True
        path = self._cache.metadata_path("digest")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            self._check_digests(fd, entry)
        except ImageCorrupt as error:
            log.warning("%s: %s; reading it from the blob again", path, error)
            os.close(fd)
            return False
        self._digest_fd = fd
        return True

    def _check_digests(self, fd: int, entry: TocEntry) -> None:
        size = self.record.chunk_count * DIGEST_SIZE
        if not size == entry.uncompressed_size == os.fstat(fd).st_size:
            raise ImageCorrupt(
                f"{os.fstat(fd).st_size} bytes of digests for {self.record.chunk_count} chunks"
            )
        digest = hashlib.sha256()
        for offset in range(0, size, _HASH_STEP):
            digest.update(os.pread(fd, _HASH_STEP, offset))
        if entry.digest is not None and digest.digest() != entry.digest:
            raise ImageCorrupt(f"its SHA-256 is not {entry.digest.hex()} as the TOC says")

    def _store_digests(self, entry: TocEntry, content: bytes) -> None:
        fd = keep_metadata(self._cache, "digest", content, verified_on_use=entry.digest is not None)
        try:
            self._check_digests(fd, entry)
        except ImageCorrupt as error:
            os.close(fd)
            raise ImageCorrupt(f"blob {self.record.blob_id}: its blob.digest: {error}") from None
        self._digest_fd = fd

    def _read_digest(self, chunk_idx: int) -> bytes | None:
        digest = os.pread(self._digest_fd, DIGEST_SIZE, chunk_idx * DIGEST_SIZE)
        if len(digest) != DIGEST_SIZE:
            raise CacheError(f"{self._cache.metadata_path('digest')} was cut; remove it and restart")
        return digest


def _first_of(sources: list[DigestOf]) -> DigestOf:
    def digest_of(chunk_idx: int) -> bytes | None:
        return next((digest for source in sources if (digest := source(chunk_idx)) is not None), None)

    return digest_of
