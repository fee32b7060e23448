"""The composition root: builds image, link to the agent, device and server, and owns their lifetimes.

Reading order of the pieces: `rafs.image` (what is in the image), `vhostfs.agent.client` (where chunks come
from), `native.dataplane` (the data plane), `virtqueue.server` (who it is for). Everything is closed in the
reverse order of its making, whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from native import dataplane
from rafs.errors import RafsError
from rafs.image import Image, ImageError
from vhostfs.agent.client import AgentLink
from vhostfs.agent.exchange import AgentError
from vhostfs.device import VirtioFsDevice
from vhostfs.open_image import OpenImage
from vhostfs.options import ServeOptions
from vhostfs.runtime import StartError, background, os_error_text, serve_until_signal
from vhostfs.tracing import TraceRecorder, save_trace
from virtqueue.listener import Listener
from virtqueue.offer import virtio_fs_offer
from virtqueue.server import Server

log = logging.getLogger(__name__)


class Daemon:
    """One image, one device, one socket. `async with` makes it ready; `run` serves until `stop`.

    `start_agent` has an agent started for the cache directory (`vhostfs/agent`).
    """

    def __init__(self, options: ServeOptions, start_agent: Callable[[Path], None]) -> None:
        self.options = options
        self._start_agent = start_agent
        self._stopping = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Daemon:
        try:
            await self._build()
        except (AgentError, ImageError, RafsError, ValueError) as error:
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
        bootstrap = Image(options.bootstrap)
        self._prepare(stack)
        chunks = dataplane.ChunkStore()
        stack.callback(chunks.close)
        link = AgentLink(chunks, options.cache_dir, self._start_agent)
        stack.push_async_callback(link.close)
        self.image = OpenImage(bootstrap, link, options.backend, limits=options.cache_limits)
        stack.push_async_callback(self.image.close)
        await self.image.open_blobs()
        if options.prefetch is not None:
            self.image.start_prefetch(options.prefetch, lambda: options.trace)
        self.device = dataplane.Device(
            chunks,
            num_request_queues=options.num_request_queues,
            miss_timeout_ms=int(options.miss_timeout_s * 1000),
            poll_us=options.poll_us,
        )
        stack.callback(self.device.close)
        stack.push_async_callback(self._write_statistics)
        self.device.mount_image("/", bootstrap, self.image.native_blobs)
        if options.trace_out is not None:
            recorder = TraceRecorder(self.device, "/", bootstrap, options.bootstrap)
            stack.callback(save_trace, recorder, options.trace_out)
        await self._begin(stack)
        # First of all at the end: a vring that is being stopped waits for its misses.
        stack.push_async_callback(link.stop)
        stack.push_async_callback(self.image.figures)  # for the statistics: there is no asking afterwards
        log.info("serving %s on %s", options.bootstrap, self._where())

    # the transport: virtqueues here, /dev/fuse in mount_daemon.py

    def _prepare(self, stack: AsyncExitStack) -> None:
        """Early, so that a VMM may connect already: it is answered once the blobs are open."""
        self._offer = virtio_fs_offer(self.options.num_request_queues, self.options.tag)
        self._listener = _listen(self.options)
        stack.callback(self._listener.close)

    async def _begin(self, stack: AsyncExitStack) -> None:
        binding = VirtioFsDevice(self.device)
        stack.callback(binding.close)
        await stack.enter_async_context(background(Server(self._listener, self._offer, binding).serve()))

    def _where(self) -> str:
        return str(self._listener.path or f"descriptor {self.options.listen_fd}")

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        self._stopping.set()

    async def statistics(self) -> dict[str, Any]:
        """Counters: the device's; under `fetch_` and `cache_` the agent's; under `prefetch_` the image's."""
        figures = await self.image.figures()
        parts = {"fetch": figures.fetch, "cache": figures.cache, "prefetch": asdict(figures.prefetch)}
        named = {f"{part}_{name}": value for part, values in parts.items() for name, value in values.items()}
        return self.device.statistics() | named

    async def _write_statistics(self) -> None:
        if self.options.statistics is None:
            return
        try:
            self.options.statistics.write_text(json.dumps(await self.statistics(), indent=1) + "\n")
        except OSError as error:
            log.error("cannot write the statistics: %s", os_error_text(error))


def serve(options: ServeOptions, start_agent: Callable[[Path], None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError."""
    serve_until_signal(lambda: Daemon(options, start_agent), loop_factory=uvloop.new_event_loop)


def _listen(options: ServeOptions) -> Listener:
    if options.socket is not None:
        return Listener.bind(options.socket)
    if options.listen_fd is None:
        raise ValueError("neither a socket path nor a listening descriptor")
    return Listener.adopt(options.listen_fd)
