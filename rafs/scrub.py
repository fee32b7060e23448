"""Checks in the background what lies on the disk of open blobs, and has what is corrupt fetched again.

One chunk after the other, at a bounded rate, past the page cache. A chunk that does not have its digest is
given up first, so that nobody reads it any more, and fetched then; if that fails, the next read asks again.

On the event loop; threads read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from rafs.blob_meta import Chunk
from rafs.blob_tail import DigestOf
from rafs.codec import chunk_digest
from rafs.codes import Digester
from rafs.disk_read import DiskFile
from rafs.errors import RafsError
from rafs.governor import Governor
from rafs.open_blob import OpenBlob

log = logging.getLogger(__name__)

#: A daemon that begins has better things to do, and so has one that is through.
DELAY_S, PAUSE_S = 60.0, 6 * 3600.0
#: chunks whose records are read at once
_STEP = 256


class Scrubber:
    """Of one store's blobs; `rate` in bytes a second. `fetch(blob, chunk)` raises RafsError."""

    def __init__(
        self, governor: Governor, fetch: Callable[[OpenBlob, int], Awaitable[None]], *, rate: int
    ) -> None:
        self._governor = governor
        self._fetch = fetch
        self._rate = rate

    async def run(self, blobs: Callable[[], Iterable[OpenBlob]]) -> None:
        """Check all of them, again and again."""
        await asyncio.sleep(DELAY_S)
        while True:
            for blob in list(blobs()):
                if not blob.is_closing:
                    await self.check(blob)
            await asyncio.sleep(PAUSE_S)

    async def check(self, blob: OpenBlob) -> None:
        """Check what is READY on the disk of one blob, as long as it is open."""
        try:
            digest_of = await blob.tail.load_digests()
            if digest_of is None:
                return
            with DiskFile(blob.cache.data_path, same_as=blob.cache.data_fd) as data:
                for start in range(0, len(blob.meta), _STEP):
                    for first, count in blob.meta.described(start, min(_STEP, len(blob.meta) - start)):
                        for chunk in blob.meta.chunks(first, count):
                            await self._check(blob, chunk, digest_of, data)
        except (RafsError, OSError) as error:
            log.warning("blob %s: cannot check what lies on the disk: %s", blob.blob_id, error)

    async def _check(self, blob: OpenBlob, chunk: Chunk, digest_of: DigestOf, data: DiskFile) -> None:
        index = chunk.chunk_idx
        expected = digest_of(index)
        if blob.is_closing or expected is None or not blob.native.is_on_disk(index):
            return
        generation = blob.native.generation
        digester = blob.meta.record.digester
        is_right = await asyncio.to_thread(_has_digest, data, chunk, digester, expected)
        self._governor.add("scrubbed_bytes", chunk.uncompressed_size)
        if not is_right and not blob.is_closing and blob.native.generation == generation:
            await self._heal(blob, chunk)
        await asyncio.sleep(chunk.uncompressed_size / self._rate)

    async def _heal(self, blob: OpenBlob, chunk: Chunk) -> None:
        self._governor.add("corrupt_chunks", 1)
        where = f"blob {blob.blob_id} chunk {chunk.chunk_idx}"
        log.error("%s: corrupt in %s; fetching it again", where, blob.cache.data_path)
        is_gone = await asyncio.to_thread(self._governor.discard, blob.space, chunk)
        if is_gone and not blob.is_closing:
            task = asyncio.current_task()
            try:
                await self._fetch(blob, chunk.chunk_idx)
            except asyncio.CancelledError:
                if task is None or task.cancelling():
                    raise
                return  # not we: the blob is being closed
            self._governor.add("healed_chunks", 1)


def _has_digest(data: DiskFile, chunk: Chunk, digester: Digester, expected: bytes) -> bool:
    try:
        content = data.read(chunk.uncompressed_offset, chunk.uncompressed_size)
        return chunk_digest(content, digester) == expected
    except OSError:  # the disk cannot read it
        return False
