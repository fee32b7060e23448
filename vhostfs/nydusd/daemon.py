"""The composition root of `vhostfs-nydusd virtiofs`: one device, one vhost-user socket, many mounts, the API.

In this order, which Kata relies on (contract 1.3): what the command line mounts is mounted, the vhost-user
socket listens, the state is RUNNING, the API socket appears. At the end both sockets go first.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from native import heap
from native.dataplane import ChunkStore, Device, DirectoryOptions, FileHandles
from vhostfs.api.server import ApiServer
from vhostfs.api.service import Service
from vhostfs.api.state import Event
from vhostfs.defaults import DEFAULT_MISS_TIMEOUT_S, DEFAULT_POLL_US
from vhostfs.mounts import MountError, MountRequest, Mounts
from vhostfs.nydusd.arguments import Arguments
from vhostfs.nydusd.errors import ConfigError
from vhostfs.nydusd.logs import ErrorHistory
from vhostfs.runtime import StartError, background, os_error_text, run_to_end
from virtqueue.listener import Listener

log = logging.getLogger(__name__)


class NydusDaemon:
    """`async with` makes it ready; `run` serves until `stop`. Raises StartError."""

    def __init__(
        self, arguments: Arguments, errors: ErrorHistory, start_agent: Callable[[Path], None]
    ) -> None:
        self.arguments = arguments
        self._errors = errors
        self._start_agent = start_agent
        self._stopping = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> NydusDaemon:
        try:
            await self._build()
        except (MountError, ValueError) as error:
            await self._stack.aclose()
            raise StartError(str(error)) from error
        except ConfigError as error:
            await self._stack.aclose()
            where = self.arguments.config
            raise StartError(f"{where}: {error}" if where else str(error)) from error
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
        arguments, stack = self.arguments, self._stack
        chunks = ChunkStore()
        stack.callback(chunks.close)
        device = Device(
            chunks, shared=True, miss_timeout_ms=int(DEFAULT_MISS_TIMEOUT_S * 1000), poll_us=DEFAULT_POLL_US
        )
        options = DirectoryOptions(file_handles=FileHandles(arguments.inode_file_handles))
        self.mounts = Mounts(device, chunks, self._start_agent, options)
        stack.push_async_callback(self.mounts.close)
        stack.callback(device.close)
        if (request := await asyncio.to_thread(request_of, arguments)) is not None:
            await self.mounts.mount(arguments.virtual_mountpoint, request)
        listener = Listener.bind(arguments.sock)
        stack.callback(listener.close)
        await stack.enter_async_context(background(serve_front_ends(listener, device)))
        # Before that at the end: a vring that is being stopped waits for its misses.
        stack.push_async_callback(self.mounts.stop)
        stack.callback(listener.unlink)
        self.service = Service(self.mounts, self._errors, self.stop, arguments.id, arguments.supervisor)
        self.service.state.react(Event.MOUNT, Event.START)
        log.info("serving on %s", arguments.sock)
        if arguments.apisock is not None:
            await stack.enter_async_context(ApiServer(arguments.apisock, self.service.routes))
            log.info("API on %s", arguments.apisock)

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        self._stopping.set()


async def serve_front_ends(listener: Listener, device: Device) -> None:
    """vhostfs.front_ends, imported in a thread, while the API answers already."""
    module = await run_to_end(None, lambda: importlib.import_module("vhostfs.front_ends"))
    gc.enable()
    gc.freeze()
    heap.trim()
    await module.serve_front_ends(listener, device)


def request_of(arguments: Arguments) -> MountRequest | None:
    """What the command line mounts; None for nothing. Blocks. Raises ConfigError, OSError."""
    if arguments.shared_dir is not None:
        return MountRequest(fs_type="passthrough_fs", source=str(arguments.shared_dir))
    if arguments.bootstrap is None:
        return None
    auth = os.environ.get("IMAGE_PULL_AUTH")
    return MountRequest(
        fs_type="rafs",
        source=str(arguments.bootstrap),
        config=config_text(arguments),
        prefetch_files=_prefetch_files(arguments),
        trace=arguments.trace,
        settings={"registry_auth": auth} if auth else {},
    )


def _prefetch_files(arguments: Arguments) -> tuple[str, ...]:
    if arguments.prefetch_files is None:
        return ()
    from vhostfs.prefetching import read_file_list

    return read_file_list(arguments.prefetch_files)


def config_text(arguments: Arguments) -> str:
    """The configuration of --config, or the one that --localfs-dir stands for. Raises ConfigError."""
    if arguments.localfs_dir is not None:
        folder = str(arguments.localfs_dir)
        short: dict[str, Any] = {
            "version": 2,
            "backend": {"type": "localfs", "localfs": {"dir": folder}},
            "cache": {"type": "blobcache", "filecache": {"work_dir": folder}},
        }
        return json.dumps(short)
    if arguments.config is None:
        raise ConfigError("--bootstrap needs --config or --localfs-dir, which say where its blobs are")
    from vhostfs.nydusd.config_parse import read_config

    return read_config(arguments.config)
