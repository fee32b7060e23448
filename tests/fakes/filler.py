"""A process that fetches a whole blob: `python -m tests.fakes.filler CACHE_DIR BLOB_DIR ENTRY`.

ENTRY is the blob table entry in hex. Prints "open", waits for a line on stdin, and then prints how many
chunks are READY after each few it fetched.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from native.dataplane import BLOB_RECORD, ChunkStore
from rafs.backend import LocalBackend
from rafs.blob_store import BlobStore
from rafs.cache_dir import CacheDir
from rafs.fetch import FetchResources
from rafs.upcalls import Upcalls


async def fill(cache: Path, blobs: Path, entry: bytes) -> None:
    chunks = ChunkStore()
    backend = LocalBackend(blobs)
    upcalls, resources = Upcalls(chunks), FetchResources(threads=2)
    upcalls.start()
    cache_dir = CacheDir(cache)
    cache_dir.join()
    store = BlobStore(cache_dir, backend, upcalls, resources)
    store.start()
    blob = await store.open_blob(BLOB_RECORD.parse(entry))
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    order = list(range(0, blob.native.chunk_count, 4))
    random.shuffle(order)
    for first in order:
        await store.fill(blob, first, min(4, blob.native.chunk_count - first))
        print(blob.native.ready_count(), flush=True)
    upcalls.stop()
    await store.close()
    resources.close()
    await backend.close()
    chunks.close()


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), Path(sys.argv[2]), bytes.fromhex(sys.argv[3])))
