"""An image that is mounted, and what it needs: bootstrap, blobs, cache directory, back-end.

Images with the same back-end and cache directory share a BlobStore, and so the blobs that they have in
common. What is configured and cannot be served is refused here, with a sentence that says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from native.dataplane import Blob, ChunkStore, MountCounters
from rafs.backend.config import Backend, encode_backend
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from rafs.blob_store import BlobStore
from rafs.cache_dir import CacheDir, CacheDirs
from rafs.errors import RafsError
from rafs.fetch import FetchResources
from rafs.image import Image, ImageError
from rafs.limits import CacheLimits
from rafs.metered import MeteredBackend
from rafs.open_blob import OpenBlob
from rafs.upcalls import Upcalls
from vhostfs.mounts import MountError, MountRequest, check_reach
from vhostfs.nydusd.config import Config, public_view
from vhostfs.nydusd.config_parse import parse_config
from vhostfs.nydusd.config_paths import read_paths
from vhostfs.nydusd.config_served import cache_limits, served, without_effect
from vhostfs.prefetching import MountPrefetch, options_of
from vhostfs.runtime import os_error_text, run_to_end, to_end
from vhostfs.sandbox_policy import Use

log = logging.getLogger(__name__)


class _Key(NamedTuple):
    """What images must agree on to share a store: the back-end (a digest: it has secrets), the cache."""

    backend: bytes
    cache_dir: Path


@dataclass
class _Shared:
    cache_dir: CacheDir
    store: BlobStore
    backend: MeteredBackend
    users: int = 0


class RafsInstance:
    """An open image. `close` it after it was unmounted."""

    def __init__(self, config: Config, image: Image, stores: RafsStores, key: _Key, shared: _Shared) -> None:
        self.config = config
        self.image = image
        self.cache_dir = key.cache_dir
        self.blobs: list[OpenBlob] = []
        self.counters = MountCounters()
        self.store = shared.store
        self.backend = shared.backend
        self.prefetch: MountPrefetch | None = None
        self._stores = stores
        self._key = key

    @property
    def native_blobs(self) -> list[Blob]:
        return [blob.native for blob in self.blobs]

    def public_config(self) -> dict[str, Any]:
        """The configuration without its secrets."""
        return public_view(self.config)

    def adjust(self, settings: Mapping[str, str]) -> None:
        """Take new values of the SETTINGS of mounts.py. Raises MountError, and changes nothing.

        Images with the same back-end share it, and so its settings.
        """
        try:
            self.backend.set(settings)
        except RafsError as error:
            raise MountError(str(error)) from error

    async def open_blobs(self) -> None:
        """Open all blobs of the image. Raises RafsError; `close` is then still due."""
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

    async def _open_blob(self, index: int) -> OpenBlob:
        # Now: the blob may outlive this mount. To the end: the image must not be closed meanwhile.
        chunks = await run_to_end(None, lambda: self.image.bootstrap_chunks(index))
        return await self.store.open_blob(self.image.blob(index), digests=chunks)

    def start_prefetch(self, files: Sequence[str]) -> None:
        """Begin to fetch ahead what the configuration asks for; `files`: those of the mount request."""
        options = options_of(self.config, files)
        if options is not None:
            self.prefetch = MountPrefetch(self.store, self.image, self.blobs, options)
            self.prefetch.start()

    async def close(self) -> None:
        """Let go of image, blobs and store."""
        await to_end(self._close())

    async def _close(self) -> None:
        if self.prefetch is not None:
            await self.prefetch.close()
        for blob in self.blobs:
            await self.store.close_blob(blob)
        self.blobs = []
        self.image.close()
        self.counters.close()
        await self._stores.release(self._key)


class RafsStores:
    """The stores behind all mounted images, by back-end and cache directory."""

    def __init__(self, chunks: ChunkStore) -> None:
        self._upcalls = Upcalls(chunks)
        self._resources = FetchResources()
        self._http = HttpPool()
        self._cache_dirs = CacheDirs()
        self._shared: dict[_Key, _Shared] = {}
        self._warned: set[str] = set()
        self._upcalls.start()

    async def open(self, request: MountRequest) -> RafsInstance:
        """Open an image that is to be mounted. Raises MountError, ConfigError."""
        config, unknown = parse_config(request.config)
        self._warn(unknown, "the configuration has fields that are unknown here and ignored")
        self._warn(without_effect(config), "the configuration asks for what has no effect here")
        backend_config, cache_dir = served(config)
        await run_to_end(None, lambda: check_all_reach(request, config, cache_dir))
        key = _Key(sha256(encode_backend(backend_config)).digest(), cache_dir)
        shared = self._acquire(key, backend_config, cache_limits(config))
        try:
            if request.settings:
                shared.backend.set(request.settings)
            image = await run_to_end(None, lambda: Image(request.source))
        except BaseException as error:
            await to_end(self.release(key))
            raise _as_mount_error(error) from error
        instance = RafsInstance(config, image, self, key, shared)
        try:
            await instance.open_blobs()
            instance.start_prefetch(request.prefetch_files)
        except BaseException as error:
            await instance.close()
            raise _as_mount_error(error) from error
        return instance

    def _acquire(self, key: _Key, backend_config: Backend, limits: CacheLimits) -> _Shared:
        shared = self._shared.get(key)
        try:
            if shared is None:
                backend = MeteredBackend(make_backend(backend_config, self._http))
                cache_dir = self._cache_dirs.take(key.cache_dir, limits)
                store = BlobStore(cache_dir, backend, self._upcalls, self._resources)
                store.start()
                shared = self._shared[key] = _Shared(cache_dir, store, backend)
            else:
                shared.cache_dir.check_limits(limits)
        except RafsError as error:
            raise MountError(str(error)) from error
        shared.users += 1
        return shared

    async def release(self, key: _Key) -> None:
        """One user of a store less; with the last one it is closed."""
        shared = self._shared[key]
        shared.users -= 1
        if shared.users == 0:
            del self._shared[key]
            await shared.store.close()
            self._cache_dirs.give_back(shared.cache_dir)
            await shared.backend.close()

    async def stop(self) -> None:
        """Take no more misses, and fail those that wait."""
        self._upcalls.stop()
        await asyncio.gather(*(shared.store.stop() for shared in self._shared.values()))

    async def close(self) -> None:
        """No instance is open any more."""
        self._upcalls.stop()
        self._resources.close()
        await self._http.close()

    def _warn(self, paths: list[str], of_what: str) -> None:
        """Once for each field in the life of the daemon."""
        if new := [path for path in paths if path not in self._warned]:
            self._warned.update(new)
            log.warning("%s: %s", of_what, ", ".join(new))


def check_all_reach(request: MountRequest, config: Config, cache_dir: Path) -> None:
    """Raise MountError for the first path that the sandbox keeps out of reach. Blocks."""
    for path in (Path(request.source), *read_paths(config)):
        check_reach(path, Use.READ)
    check_reach(cache_dir, Use.WRITE)


def _as_mount_error(error: BaseException) -> BaseException:
    if isinstance(error, RafsError | ImageError):
        return MountError(str(error))
    return MountError(os_error_text(error)) if isinstance(error, OSError) else error
