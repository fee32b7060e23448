"""A bootstrap and its blobs, which an agent fetches: what any kind of daemon mounts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

from native.dataplane import Blob
from rafs.backend.config import Backend, encode_backend
from rafs.image import Image
from rafs.limits import NO_LIMITS, CacheLimits
from rafs.prefetch.options import PrefetchOptions
from rafs.trace.format import Trace
from vhostfs.agent.bootstrap import pack_chunks
from vhostfs.agent.client import AgentLink
from vhostfs.agent.linked import BlobSpec, LinkedBlob
from vhostfs.agent.protocol import Figures
from vhostfs.nydusd.config_paths import backend_files
from vhostfs.prefetching import MountPrefetch
from vhostfs.runtime import run_to_end, to_end


class OpenImage:
    """`close` it after nothing serves it any more; that closes `image` too.

    `backend`: where the blobs come from; `settings`: values of SETTINGS (mounts.py) that go before it;
    `limits`: of the cache directory.
    """

    def __init__(
        self,
        image: Image,
        link: AgentLink,
        backend: Backend,
        *,
        settings: Mapping[str, str] = MappingProxyType({}),
        limits: CacheLimits = NO_LIMITS,
    ) -> None:
        self.image = image
        self.blobs: list[LinkedBlob] = []
        self._link = link
        self._backend = backend
        self._settings = dict(settings)
        self._limits = limits
        self._prefetch: MountPrefetch | None = None

    @property
    def native_blobs(self) -> list[Blob]:
        return [blob.native for blob in self.blobs]

    async def open_blobs(self) -> None:
        """Open all blobs of the image. Raises RafsError, AgentError, OSError; `close` is then still due."""
        tasks = [asyncio.create_task(self._open_blob(index)) for index in range(self.image.blob_count)]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await to_end(asyncio.gather(*tasks, return_exceptions=True))
            raise
        finally:
            self.blobs = [task.result() for task in tasks if not task.cancelled() and not task.exception()]

    async def _open_blob(self, index: int) -> LinkedBlob:
        record = self.image.blob(index)
        # To the end: the image must not be closed meanwhile.
        told, chunks_fd = await run_to_end(
            None, lambda: pack_chunks(record, self.image.bootstrap_chunks(index))
        )
        spec = BlobSpec(
            record=record,
            backend=encode_backend(self._backend),
            settings=self._settings,
            limits=self._limits,
            files=list(backend_files(self._backend)),
            told=told,
            chunks_fd=chunks_fd,
        )
        return await self._link.open_blob(spec)

    async def adjust(self, settings: Mapping[str, str]) -> None:
        """Take new settings. Raises AgentError, and changes nothing."""
        await self._link.adjust(self.blobs, settings)
        self._settings |= settings

    def start_prefetch(self, options: PrefetchOptions, find_trace: Callable[[], Trace | None]) -> None:
        """Begin to fetch ahead, first what the trace has; nothing waits for it."""
        self._prefetch = MountPrefetch(self._link, self.image, self.blobs, options, find_trace)
        self._prefetch.start()

    async def figures(self) -> Figures:
        """What the agent has counted."""
        prefetch = self._prefetch.running if self._prefetch is not None else None
        return await self._link.figures(self.blobs, prefetch)

    async def close(self) -> None:
        """Let go of blobs and bootstrap."""
        if self._prefetch is not None:
            await self._prefetch.close()
        await asyncio.gather(*(self._link.close_blob(blob) for blob in self.blobs))
        self.blobs = []
        self.image.close()
