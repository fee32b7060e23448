"""What the API can tell and do, endpoint by endpoint (contract 5.4). No HTTP here.

Handlers take a Request and return what is answered as JSON with 200, or None for a 204; ApiError otherwise.
Credentials go in and never come out.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from vhostfs import sandbox
from vhostfs.api import metrics
from vhostfs.api.errors import ApiError
from vhostfs.api.routes import Body, Document, Request, Route, Routes, parse_object
from vhostfs.api.state import Event, State, StateMachine, UnexpectedEvent
from vhostfs.mounts import SETTINGS, Mount, MountError, MountRequest, Mounts
from vhostfs.nydusd.errors import ConfigError
from vhostfs.nydusd.logs import LEVELS, ErrorHistory, set_level
from vhostfs.nydusd.version import build_info

log = logging.getLogger(__name__)
T = TypeVar("T")


class Service:
    """The daemon as its API shows it. `stop` is called when a client has been told that it ends.

    `id` and `supervisor` are what clients gave the daemon to tell them.
    """

    def __init__(
        self,
        mounts: Mounts,
        errors: ErrorHistory,
        stop: Callable[[], None],
        id: str | None = None,
        supervisor: str | None = None,
    ) -> None:
        self.state = StateMachine()
        self._mounts = mounts
        self._errors = errors
        self._id = id
        self._supervisor = supervisor
        self._stop = stop
        required = Body.REQUIRED
        self.routes: Routes = {
            "/api/v1/daemon": {"GET": Route(self.info), "PUT": Route(self.configure, required)},
            "/api/v2/daemon": {"GET": Route(self.info_v2), "PUT": Route(self.configure, required)},
            "/api/v1/daemon/events": {"GET": Route(self.events)},
            "/api/v1/daemon/backend": {"GET": Route(self.super_block)},
            "/api/v1/daemon/start": {"PUT": Route(self.start)},
            "/api/v1/daemon/exit": {"PUT": Route(self.exit)},
            "/api/v1/daemon/fuse/sendfd": {"PUT": Route(self.send_fd)},
            "/api/v1/daemon/fuse/takeover": {"PUT": Route(self.take_over)},
            "/api/v1/mount": {
                "POST": Route(self.mount, required),
                "PUT": Route(self.remount, required),
                "DELETE": Route(self.umount),
            },
            "/api/v1/trace": {
                "PUT": Route(self.start_trace),
                "GET": Route(self.read_trace),
                "DELETE": Route(self.end_trace),
            },
            "/metrics": {"GET": Route(self.prometheus)},
            "/api/v1/metrics": {"GET": Route(self.metrics)},
            "/api/v1/metrics/files": {"GET": Route(self.metrics_files)},
            "/api/v1/metrics/pattern": {"GET": Route(self.metrics_pattern)},
            "/api/v1/metrics/backend": {"GET": Route(self.metrics_backend)},
            "/api/v1/metrics/blobcache": {"GET": Route(self.metrics_blobcache)},
            "/api/v1/metrics/inflight": {"GET": Route(self.metrics_inflight)},
            "/api/v1/config": {"GET": Route(self.settings), "PUT": Route(self.set_settings, required)},
            "/api/v2/blobs": {
                "GET": Route(self.blobs),
                "PUT": Route(self.bind_blob, required),
                "DELETE": Route(self.unbind_blob),
            },
        }

    # the daemon

    async def info(self, request: Request) -> dict[str, Any]:
        return self._info({mount.mountpoint: _describe(mount) for mount in self._mounts})

    async def info_v2(self, request: Request) -> dict[str, Any]:
        return self._info(None)

    def _info(self, mounted: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": self._id,
            "version": build_info()._asdict(),
            "supervisor": self._supervisor,
            "state": self.state.state,
            "sandbox": sandbox.current().as_json(),
            "backend_collection": mounted,
        }

    async def configure(self, request: Request) -> None:
        level = parse_object(request.body).get("log_level")
        if not isinstance(level, str) or level not in LEVELS:
            raise ApiError(400, f"ParseBody: 'log_level' must be one of {', '.join(LEVELS)}")
        set_level(level)

    async def events(self, request: Request) -> dict[str, object]:
        return self._errors.snapshot()

    async def super_block(self, request: Request) -> Any:
        mountpoint = request.required("mountpoint")
        try:
            mount = self._mounts.at(mountpoint)
        except MountError as error:
            raise ApiError(500, str(error)) from None
        if mount.instance is None:
            raise ApiError(500, f"{mount.mountpoint}: a host directory has no super block")
        return metrics.super_block(mount.instance)

    async def start(self, request: Request) -> None:
        self._react(Event.START)

    async def exit(self, request: Request) -> None:
        events = (Event.STOP, Event.EXIT) if self.state.state is State.RUNNING else (Event.EXIT,)
        self._react(*events)
        # The end of the daemon waits for this answer to be sent: it is being made.
        asyncio.get_running_loop().call_soon(self._stop)

    async def send_fd(self, request: Request) -> None:
        raise ApiError(501, "Unsupported: a virtio-fs session cannot be handed over")

    async def take_over(self, request: Request) -> None:
        raise ApiError(501, "Unsupported: a virtio-fs session cannot be taken over")

    def _react(self, *events: Event) -> None:
        try:
            self.state.react(*events)
        except UnexpectedEvent as error:
            raise ApiError(400, str(error)) from None

    # mounts

    async def mount(self, request: Request) -> None:
        await self._change(self._mounts.mount(request.required("mountpoint"), parse_mount(request.body)))

    async def remount(self, request: Request) -> None:
        await self._change(self._mounts.remount(request.required("mountpoint"), parse_mount(request.body)))

    async def umount(self, request: Request) -> None:
        await self._change(self._mounts.umount(request.required("mountpoint")))

    async def _change(self, change: Awaitable[T]) -> T:
        try:
            return await change
        except MountError as error:
            raise ApiError(500, str(error)) from error
        except ConfigError as error:
            raise ApiError(500, f"config: {error}") from error

    # traces of reads; ours, nydusd has nothing like it

    async def start_trace(self, request: Request) -> None:
        await self._change(self._mounts.start_trace(request.required("mountpoint")))

    async def read_trace(self, request: Request) -> dict[str, str]:
        """A trace file (rafs/trace/format.py), in base64."""
        return await self._trace(request, is_last=False)

    async def end_trace(self, request: Request) -> dict[str, str]:
        """The same, and the recording ends."""
        return await self._trace(request, is_last=True)

    async def _trace(self, request: Request, *, is_last: bool) -> dict[str, str]:
        read = self._mounts.read_trace(request.required("mountpoint"), is_last=is_last)
        return {"trace": b64encode(await self._change(read)).decode()}

    # metrics

    def _image(self, request: Request) -> Mount:
        name = request.query.get("id")
        mount = self._mounts.rafs(name)
        if mount is None:
            what = "'id' must be given unless one image is mounted" if name is None else f"no image {name!r}"
            raise ApiError(404, f"NotFound: {what}")
        return mount

    async def prometheus(self, request: Request) -> Document:
        """All figures of all mounts, as Prometheus reads them; ours."""
        if sys.modules.get("ssl", sys) is None:  # see nydusd/process.py; the library wants it there
            del sys.modules["ssl"]
        from vhostfs.api.scrape import scrape  # heavy

        return Document(*await scrape(self._mounts))

    async def metrics(self, request: Request) -> dict[str, Any]:
        mount = self._image(request)
        assert mount.instance is not None
        return metrics.files(mount.mountpoint, mount.instance.counters.read())

    async def metrics_blobcache(self, request: Request) -> dict[str, Any]:
        mount = self._image(request)
        assert mount.instance is not None
        return metrics.blob_cache(mount.instance, await mount.instance.figures())

    async def metrics_backend(self, request: Request) -> dict[str, Any]:
        instance = self._image(request).instance
        assert instance is not None and instance.config.backend is not None
        return metrics.backend(instance.config.backend.type, (await instance.figures()).backend)

    async def metrics_files(self, request: Request) -> Any:
        """Nothing is counted by file, as the flags of `metrics` say."""
        self._image(request)
        return [] if request.query.get("latest") == "true" else {}

    async def metrics_pattern(self, request: Request) -> list[Any]:
        """Nor is the pattern of access recorded."""
        self._image(request)
        return []

    async def metrics_inflight(self, request: Request) -> Any:
        raise ApiError(501, "Unsupported: requests in flight are not told of a virtio-fs session")

    # settings that may change while images are served

    async def settings(self, request: Request) -> dict[str, str]:
        shown = dict(self._for_settings(request).settings)
        if "registry_auth" in shown:
            shown["registry_auth"] = "***"
        return shown

    async def set_settings(self, request: Request) -> None:
        mount, changes = self._for_settings(request), parse_object(request.body)
        for name, value in changes.items():
            if name not in SETTINGS:
                raise ApiError(500, f"unknown setting {name!r}; there are {', '.join(SETTINGS)}")
            if not isinstance(value, str):
                raise ApiError(400, f"ParseBody: {name!r} must be a string")
        await mount.set(changes)
        log.info("%s: new %s", mount.mountpoint, ", ".join(changes) or "nothing")

    def _for_settings(self, request: Request) -> Mount:
        """By mountpoint; "/" is the one image of a daemon that serves only one."""
        name = request.required("id")
        mount = self._mounts.rafs(name) or (self._mounts.rafs(None) if name == "/" else None)
        if mount is None:
            raise ApiError(404, f"NotFound: no image {name!r}")
        return mount

    # blobs of the kernel's cache: another mode's

    async def blobs(self, request: Request) -> None:
        request.required("domain_id")
        raise _no_blobs()

    async def bind_blob(self, request: Request) -> None:
        entry = parse_object(request.body)
        for name in ("type", "id"):
            if not isinstance(entry.get(name), str):
                raise ApiError(400, f"ParseBody: {name!r} must be a string")
        if not isinstance(entry.get("config") or entry.get("config_v2"), dict):
            raise ApiError(400, "ParseBody: 'config' or 'config_v2' must be given")
        raise _no_blobs()

    async def unbind_blob(self, request: Request) -> None:
        if "domain_id" not in request.query:
            request.required("blob_id")
        raise _no_blobs()


def parse_mount(body: bytes) -> MountRequest:
    """The body of POST and PUT /api/v1/mount. Raises ApiError."""
    given = parse_object(body)
    for name, is_required in (("source", True), ("config", True), ("fs_type", False), ("trace", False)):
        if name not in given and is_required:
            raise ApiError(400, f"ParseBody: {name!r} must be given")
        if not isinstance(given.get(name, ""), str):
            raise ApiError(400, f"ParseBody: {name!r} must be a string")
    files = given.get("prefetch_files")
    if files is not None and not (isinstance(files, list) and all(isinstance(name, str) for name in files)):
        raise ApiError(400, "ParseBody: 'prefetch_files' must be a list of strings")
    return MountRequest(
        fs_type=given.get("fs_type", ""),
        source=given["source"],
        config=given["config"],
        prefetch_files=tuple(files or ()),
        trace=given.get("trace", ""),
    )


def _describe(mount: Mount) -> dict[str, Any]:
    """A mount as `backend_collection` has it."""
    is_image = mount.instance is not None
    return {
        "backend_type": "Rafs" if is_image else "PassthroughFs",
        "mountpoint": mount.mountpoint,
        "mounted_time": _timestamp(mount.mounted_at),
        "config": mount.instance.public_config() if mount.instance is not None else None,
    }


def _timestamp(when: datetime) -> str:
    """As in "2024-01-02 03:04:05.678 +00:00:00"."""
    return f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03} +00:00:00"


def _no_blobs() -> ApiError:
    return ApiError(501, "Unsupported: this daemon serves no blobs to the kernel's cache")
