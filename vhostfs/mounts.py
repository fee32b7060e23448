"""The mounts of a session: one namespace of host directories and images, changed while guests use it.

Here is the bookkeeping; the data plane's namespace (native/c/namespace.h) is the truth for guests, and what
an image needs besides (blobs, cache, back-end) is `rafs_instance.py`, imported with the first image because
that is slow. Operations on one mountpoint come one after the other, those on others go on meanwhile. A mount
that is cancelled is undone; an umount that is cancelled is done.

Mountpoints are absolute paths; empty components and a last slash do not count.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from native.dataplane import ChunkStore, Device, DirectoryOptions
from vhostfs import sandbox
from vhostfs.runtime import os_error_text, run_to_end, to_end
from vhostfs.sandbox_policy import Use

if TYPE_CHECKING:
    from vhostfs.rafs_instance import RafsImages, RafsInstance
    from vhostfs.tracing import TraceRecorder

log = logging.getLogger(__name__)

PASSTHROUGH_TYPES = ("passthrough", "passthroughfs", "passthrough_fs")
#: names that may be set on a mount while it is used; for back-ends that have use for them
SETTINGS = ("registry_auth", "proxy_url", "dragonfly_scheduler_endpoint")


class MountError(Exception):
    """A mount operation that cannot be done; the text says why."""


class AlreadyMounted(MountError):
    """Something is mounted there."""


class NotMounted(MountError):
    """Nothing is mounted there."""


class MountRequest(NamedTuple):
    """What is to be mounted. `config` is the text of a nydusd configuration, and may hold credentials.

    `settings` has values of SETTINGS that go before those of `config`, and so does `trace` (tracing.py).
    """

    fs_type: str
    source: str
    config: str = ""
    prefetch_files: tuple[str, ...] = ()
    trace: str = ""
    settings: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        return f"MountRequest({self.fs_type!r}, {self.source!r}, ...)"


class Mount:
    """Something that is mounted. `instance` is None for a host directory."""

    def __init__(
        self,
        mountpoint: str,
        request: MountRequest,
        instance: RafsInstance | None,
        settings: Mapping[str, str],
    ) -> None:
        self.mountpoint = mountpoint
        self.request = request
        self.instance = instance
        self.settings = dict(settings)
        self.mounted_at = datetime.now(UTC)
        self.recorder: TraceRecorder | None = None

    @property
    def config_id(self) -> str:
        return "" if self.instance is None else self.instance.config.id

    async def set(self, changes: Mapping[str, str]) -> None:
        """Change settings, for whoever fetches from now on. Raises MountError, and changes nothing."""
        if self.instance is not None:
            await self.instance.adjust(changes)
        self.settings.update(changes)


def normalize(mountpoint: str) -> str:
    """The one spelling of a mountpoint. Raises MountError when it can be none."""
    parts = [part for part in mountpoint.split("/") if part]
    if not mountpoint.startswith("/") or "\0" in mountpoint or any(part in (".", "..") for part in parts):
        raise MountError(f"{mountpoint!r} is no mountpoint: it must be an absolute path without '.' and '..'")
    return "/" + "/".join(parts)


class Mounts:
    """All mounts of one device. Runs on the event loop; close it before the device, after the queues.

    `start_agent` has an agent started for a cache directory (`vhostfs/agent`). `directories`: how host
    directories are shared.
    """

    def __init__(
        self,
        device: Device,
        chunks: ChunkStore,
        start_agent: Callable[[Path], None],
        directories: DirectoryOptions | None = None,
    ) -> None:
        self._device = device
        self._chunks = chunks
        self._start_agent = start_agent
        self._directories = directories
        self._mounted: dict[str, Mount] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mount")
        self._images: RafsImages | None = None

    def __iter__(self) -> Iterator[Mount]:
        return iter(list(self._mounted.values()))

    def at(self, mountpoint: str) -> Mount:
        """What is mounted there. Raises NotMounted, MountError."""
        path = normalize(mountpoint)
        try:
            return self._mounted[path]
        except KeyError:
            raise NotMounted(f"{path}: not found, nothing is mounted there") from None

    def rafs(self, name: str | None) -> Mount | None:
        """An image by mountpoint or configuration id, either with or without a leading slash; or None.

        Without a name it is the only image, if there is one only.
        """
        images = [mount for mount in self._mounted.values() if mount.instance is not None]
        if name is None:
            return images[0] if len(images) == 1 else None
        wanted = name.strip("/")
        for mount in images:
            if mount.mountpoint.strip("/") == wanted:
                return mount
        return next((mount for mount in images if mount.config_id.strip("/") == wanted), None)

    async def mount(self, mountpoint: str, request: MountRequest) -> None:
        """Mount; guests see it when this returns. Raises MountError, AlreadyMounted, ConfigError."""
        path = normalize(mountpoint)
        async with self._lock(path):
            if path in self._mounted:
                raise AlreadyMounted(f"{path}: already exists, something is mounted there")
            instance = await self._open(request)
            try:
                await self._attach(path, request, instance)
            except BaseException:
                if instance is not None:
                    await instance.close()
                raise
            self._mounted[path] = Mount(path, request, instance, request.settings)
        log.info("mounted %s (%s) at %s", request.source, request.fs_type, path)

    async def remount(self, mountpoint: str, request: MountRequest) -> None:
        """Put another image in the place of one. What guests have open of the old one becomes stale.

        Raises NotMounted; MountError, ConfigError: the old one stays.
        """
        path = normalize(mountpoint)
        async with self._lock(path):
            before = self.at(path)
            if before.instance is None or request.fs_type in PASSTHROUGH_TYPES:
                raise MountError(f"{path}: only images can be replaced by others (fs_type rafs)")
            instance = await self._open(request._replace(settings={**before.settings, **request.settings}))
            assert instance is not None
            await self._stop_recorder(before)
            try:
                await run_to_end(self._thread, lambda: self._replace(path, before, instance))
            except BaseException as error:
                await instance.close()
                if isinstance(error, OSError):
                    raise MountError(f"{path}: {os_error_text(error)}") from error
                raise
            self._mounted[path] = Mount(path, request, instance, before.settings)
            await before.instance.close()
        log.info("replaced %s by %s at %s", before.request.source, request.source, path)

    async def umount(self, mountpoint: str) -> None:
        """Unmount; no request uses it any more when this returns. Raises NotMounted, MountError."""
        path = normalize(mountpoint)
        async with self._lock(path):
            mount = self.at(path)
            await to_end(self._detach(mount))
        log.info("unmounted %s at %s", mount.request.source, path)

    async def start_trace(self, mountpoint: str) -> None:
        """Begin to record what is read of an image, anew if that goes on already. Raises MountError."""
        path = normalize(mountpoint)
        async with self._lock(path):
            mount = self.at(path)
            if mount.instance is None:
                raise MountError(f"{path}: only the reads of images can be recorded")
            image, source = mount.instance.image, Path(mount.request.source)
            await self._stop_recorder(mount)
            recorder = await asyncio.to_thread(_import_recorder)
            mount.recorder = await run_to_end(
                self._thread, lambda: recorder(self._device, path, image, source)
            )

    async def read_trace(self, mountpoint: str, *, is_last: bool) -> bytes:
        """What was recorded so far, as a trace file; `is_last` ends the recording. Raises MountError."""
        path = normalize(mountpoint)
        async with self._lock(path):
            mount = self.at(path)
            recorder = mount.recorder
            if recorder is None:
                raise MountError(f"{path}: nothing is being recorded")
            try:
                content = await run_to_end(self._thread, recorder.packed)
            except OSError as error:
                raise MountError(os_error_text(error)) from error
            if is_last:
                await self._stop_recorder(mount)
            return content

    async def _stop_recorder(self, mount: Mount) -> None:
        recorder, mount.recorder = mount.recorder, None
        if recorder is not None:
            await run_to_end(self._thread, recorder.stop)

    async def stop(self) -> None:
        """Fetch nothing more: requests that wait for chunks are answered EIO."""
        if self._images is not None:
            await self._images.stop()

    async def close(self) -> None:
        """Let go of everything. The device serves no more, or is closed already."""
        for mount in self._mounted.values():
            if mount.recorder is not None:
                mount.recorder.drop()
            if mount.instance is not None:
                await mount.instance.close()
        self._mounted.clear()
        self._thread.shutdown(wait=False)

    def _lock(self, path: str) -> asyncio.Lock:
        return self._locks.setdefault(path, asyncio.Lock())

    async def _open(self, request: MountRequest) -> RafsInstance | None:
        if request.fs_type in PASSTHROUGH_TYPES:
            return None
        if request.fs_type != "rafs":
            raise MountError(f"fs_type {request.fs_type!r}: must be rafs or passthrough_fs")
        if self._images is None:
            module = await asyncio.to_thread(_import_instance)
            self._images = self._images or module.RafsImages(self._chunks, self._start_agent)
        return await self._images.open(request)

    async def _attach(self, path: str, request: MountRequest, instance: RafsInstance | None) -> None:
        if instance is None:
            async with opened_directory(request.source) as fd:
                options = self._directories
                await self._on_device(
                    path, request, lambda: self._device.mount_directory(path, fd, options=options)
                )
            return
        image, blobs, counters = instance.image, instance.native_blobs, instance.counters
        await self._on_device(path, request, lambda: self._device.mount_image(path, image, blobs, counters))

    async def _on_device(self, path: str, request: MountRequest, attach: Callable[[], None]) -> None:
        try:
            await run_to_end(self._thread, attach)
        except FileExistsError:
            raise AlreadyMounted(f"{path}: already exists, or there are mounts below it") from None
        except NotADirectoryError:
            raise MountError(f"{path}: the path leads through another mount") from None
        except OSError as error:
            raise MountError(f"{request.source}: {os_error_text(error)}") from error
        except asyncio.CancelledError:
            await run_to_end(self._thread, lambda: self._undo(path))
            raise

    def _undo(self, path: str) -> None:
        with suppress(FileNotFoundError):  # the mount had failed
            self._device.umount(path)

    def _replace(self, path: str, before: Mount, instance: RafsInstance) -> None:
        old = before.instance
        assert old is not None
        self._device.umount(path)
        try:
            self._device.mount_image(path, instance.image, instance.native_blobs, instance.counters)
        except BaseException:
            self._device.mount_image(path, old.image, old.native_blobs, old.counters)
            raise

    async def _detach(self, mount: Mount) -> None:
        await self._stop_recorder(mount)
        try:
            await run_to_end(self._thread, lambda: self._device.umount(mount.mountpoint))
        except OSError as error:
            raise MountError(f"{mount.mountpoint}: {os_error_text(error)}") from error
        del self._mounted[mount.mountpoint]
        if mount.instance is not None:
            await mount.instance.close()


@asynccontextmanager
async def opened_directory(source: str) -> AsyncIterator[int]:
    """A host directory that was opened, in a thread of its own: it may be on a server that does not answer.

    Raises MountError.
    """
    opened: list[int] = []

    def open_it() -> None:
        check_reach(Path(source), Use.SHARED)
        opened.append(os.open(source, os.O_RDONLY | os.O_DIRECTORY))

    try:
        try:
            await run_to_end(None, open_it)
        except NotADirectoryError:
            raise MountError(f"{source}: not a directory") from None
        except OSError as error:
            raise MountError(os_error_text(error)) from error
        yield opened[0]
    finally:
        for fd in opened:
            os.close(fd)


def check_reach(path: Path, use: Use) -> None:
    """Raise MountError when the sandbox keeps us from using a path so. May block: it follows symlinks."""
    reason = sandbox.current().refusal(path, use)
    if reason is not None:
        raise MountError(reason)


def _import_recorder() -> type[TraceRecorder]:
    from vhostfs.tracing import TraceRecorder

    return TraceRecorder


def _import_instance() -> Any:
    import vhostfs.rafs_instance

    return vhostfs.rafs_instance
