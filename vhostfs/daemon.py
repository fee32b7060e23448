"""The composition root: builds image, cache, fetcher, device and server, and owns their lifetimes.

Reading order of the pieces: `rafs.image` (what is in the image), `rafs.blob_store` (where chunks come
from), `native.dataplane` (the data plane), `virtqueue.server` (who it is for). Everything is closed in the
reverse order of its making, whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

import uvloop

from native import dataplane
from rafs.backend import BlobBackend
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from rafs.blob_store import BlobStore
from rafs.cache_dir import CacheDir
from rafs.errors import RafsError
from rafs.fetch import FetchResources
from rafs.image import Image, ImageError
from rafs.open_blob import OpenBlob
from rafs.upcalls import Upcalls
from vhostfs.device import VirtioFsDevice
from vhostfs.options import ServeOptions
from vhostfs.prefetching import MountPrefetch
from vhostfs.runtime import StartError, background, os_error_text, serve_until_signal
from vhostfs.tracing import TraceRecorder, save_trace
from virtqueue.listener import Listener
from virtqueue.offer import virtio_fs_offer
from virtqueue.server import Server

log = logging.getLogger(__name__)


class Daemon:
    """One image, one device, one socket. `async with` makes it ready; `run` serves until `stop`.

    `backend` stands in for the one of `options.backend`.
    """

    def __init__(self, options: ServeOptions, *, backend: BlobBackend | None = None) -> None:
        self.options = options
        self._backend = backend
        self._stopping = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Daemon:
        try:
            await self._build()
        except (ImageError, RafsError, ValueError) as error:
            await self._stack.aclose()
            raise StartError(error) from error
        except OSError as error:
            await self._stack.aclose()
            raise StartError(os_error_text(error)) from error
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _build(self) -> None:
        options, stack = self.options, self._stack
        offer = virtio_fs_offer(options.num_request_queues, options.tag)
        image = Image(options.bootstrap)
        stack.callback(image.close)
        # Early, so that a VMM may connect already: it is answered once the blobs are open.
        listener = _listen(options)
        stack.callback(listener.close)
        chunks = dataplane.ChunkStore()
        stack.callback(chunks.close)
        http = HttpPool()
        stack.push_async_callback(http.close)
        backend = self._backend or make_backend(options.backend, http)
        stack.push_async_callback(backend.close)
        upcalls, resources = Upcalls(chunks), FetchResources()
        stack.callback(resources.close)
        upcalls.start()
        stack.callback(upcalls.stop)
        cache_dir = CacheDir(options.cache_dir)
        cache_dir.join(options.cache_limits)
        stack.callback(cache_dir.leave)
        self.governor = cache_dir.governor
        self.blobs = BlobStore(cache_dir, backend, upcalls, resources)
        self.blobs.start()
        stack.push_async_callback(self.blobs.close)
        opened = await asyncio.gather(*(self._open_blob(image, index) for index in range(image.blob_count)))
        self.prefetch: MountPrefetch | None = None
        if options.prefetch is not None:
            self.prefetch = MountPrefetch(self.blobs, image, opened, options.prefetch, options.trace)
            self.prefetch.start()
            stack.push_async_callback(self.prefetch.close)
        self.device = dataplane.Device(
            chunks,
            num_request_queues=options.num_request_queues,
            miss_timeout_ms=int(options.miss_timeout_s * 1000),
            poll_us=options.poll_us,
        )
        stack.callback(self.device.close)
        stack.callback(self._write_statistics)
        self.device.mount_image("/", image, [blob.native for blob in opened])
        if options.trace_out is not None:
            recorder = TraceRecorder(self.device, "/", image, options.bootstrap)
            stack.callback(save_trace, recorder, options.trace_out)
        binding = VirtioFsDevice(self.device)
        stack.callback(binding.close)
        await stack.enter_async_context(background(Server(listener, offer, binding).serve()))
        # First of all at the end: a vring that is being stopped waits for its misses.
        stack.push_async_callback(self.blobs.stop)
        stack.callback(upcalls.stop)
        log.info("serving %s on %s", options.bootstrap, listener.path or f"descriptor {options.listen_fd}")

    async def _open_blob(self, image: Image, index: int) -> OpenBlob:
        chunks = await asyncio.to_thread(image.bootstrap_chunks, index)
        return await self.blobs.open_blob(image.blob(index), digests=chunks)

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        self._stopping.set()

    def statistics(self) -> dict[str, Any]:
        """Counters: the device's; under `fetch_`, `cache_` and `prefetch_` those of the parts."""
        parts = {
            "fetch": self.blobs.statistics(),
            "cache": self.governor.statistics(),
            "prefetch": asdict(self.prefetch.statistics) if self.prefetch is not None else {},
        }
        named = {f"{part}_{name}": value for part, values in parts.items() for name, value in values.items()}
        return self.device.statistics() | named

    def _write_statistics(self) -> None:
        if self.options.statistics is None:
            return
        try:
            self.options.statistics.write_text(json.dumps(self.statistics(), indent=1) + "\n")
        except OSError as error:
            log.error("cannot write the statistics: %s", os_error_text(error))


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError."""
    serve_until_signal(lambda: Daemon(options), loop_factory=uvloop.new_event_loop)


def _listen(options: ServeOptions) -> Listener:
    if options.socket is not None:
        return Listener.bind(options.socket)
    if options.listen_fd is None:
        raise ValueError("neither a socket path nor a listening descriptor")
    return Listener.adopt(options.listen_fd)
