"""Every endpoint of the API (contract 5.4): what is asked, what is answered, and with which status."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from native.dataplane import ChunkStore, Device
from tests.vhostfs.agent_here import AgentsHere
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.nydusd.daemon_process import snapshotter_config
from vhostfs.api.routes import answer
from vhostfs.api.service import Service
from vhostfs.api.state import Event
from vhostfs.mounts import Mounts
from vhostfs.nydusd.logs import ErrorHistory
from vhostfs.nydusd.version import build_info

SECRET = "dXNlcjpwYXNzd29yZA=="


class Api:
    """The service of a running daemon, asked as if by HTTP."""

    def __init__(self, service: Service, mounts: Mounts, where: Path, image: BuiltImage) -> None:
        self.service = service
        self.mounts = mounts
        self.stopped = asyncio.Event()
        self.where = where
        self.image = image

    async def call(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        answered = await answer(self.service.routes, method, target, data)
        return answered.status, None if answered.body is None else json.loads(answered.body)

    async def get(self, target: str) -> Any:
        status, body = await self.call("GET", target)
        assert status == 200, body
        return body

    def rafs(self, snapshot: str = "15", *, prefetch: bool = True) -> dict[str, Any]:
        config = snapshotter_config(self.image.blob_dir, self.where / "cache", snapshot, prefetch=prefetch)
        return {"fs_type": "rafs", "source": str(self.image.bootstrap), "config": config}

    async def mount(self, mountpoint: str, body: dict[str, Any]) -> None:
        assert await self.call("POST", f"/api/v1/mount?mountpoint={mountpoint}", body) == (204, None)


@asynccontextmanager
async def running(where: Path, image: BuiltImage) -> AsyncIterator[Api]:
    chunks = ChunkStore()
    device = Device(chunks, shared=True)
    agents = AgentsHere()
    mounts = Mounts(device, chunks, agents.start)
    history = ErrorHistory()
    logging.getLogger().addHandler(history)
    api = Api(Service(mounts, history, lambda: api.stopped.set(), "7", "/sup"), mounts, where, image)
    api.service.state.react(Event.MOUNT, Event.START)
    try:
        yield api
    finally:
        logging.getLogger().removeHandler(history)
        await mounts.stop()
        device.close()
        await mounts.close()
        await agents.close()
        chunks.close()


async def test_the_daemon_tells_of_itself(image: BuiltImage, tmp_path: Path) -> None:
    async with running(tmp_path, image) as api:
        info = await api.get("/api/v1/daemon")
        assert info["version"] == build_info()._asdict()
        assert len(info["version"]) == 5 and all(isinstance(v, str) for v in info["version"].values())
        assert (info["id"], info["supervisor"], info["state"]) == ("7", "/sup", "RUNNING")
        assert info["backend_collection"] == {}
        newer = await api.get("/api/v2/daemon")
        assert newer["backend_collection"] is None and newer["state"] == "RUNNING"


async def test_mounts_are_told_of_without_their_secrets(image: BuiltImage, tmp_path: Path) -> None:
    async with running(tmp_path, image) as api:
        body = api.rafs()
        body["config"] = body["config"].replace('"dir"', f'"auth": "{SECRET}", "dir"')
        assert SECRET in body["config"]
        await api.mount("/rafs/a/lowerdir", body)
        await api.mount("/containers", {"fs_type": "passthroughfs", "source": str(tmp_path), "config": ""})
        info = await api.get("/api/v1/daemon")
        rafs, shared = (info["backend_collection"][path] for path in ("/rafs/a/lowerdir", "/containers"))
        assert (rafs["backend_type"], rafs["mountpoint"]) == ("Rafs", "/rafs/a/lowerdir")
        assert rafs["config"]["backend"]["localfs"]["dir"] == str(image.blob_dir)
        assert (shared["backend_type"], shared["config"]) == ("PassthroughFs", None)
        for mount in (rafs, shared):
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+00:00:00", mount["mounted_time"])
        assert SECRET not in json.dumps(info)


async def test_mounting(image: BuiltImage, tmp_path: Path) -> None:
    async with running(tmp_path, image) as api:
        target = "/api/v1/mount?mountpoint=%2Frafs%2Fa%2Flowerdir"
        assert (await api.call("POST", target, api.rafs())) == (204, None)
        status, error = await api.call("POST", target, api.rafs())
        assert status == 500 and "already exists" in error["message"]
        assert (await api.call("PUT", target, api.rafs("16"))) == (204, None)
        assert api.mounts.at("/rafs/a/lowerdir").config_id == "/16"
        assert (await api.call("DELETE", target)) == (204, None)
        status, error = await api.call("DELETE", target)
        assert status == 500 and "not found" in error["message"]
        assert (await api.call("PUT", target, api.rafs()))[0] == 500
        # in a container that is tried again
        assert (await api.call("POST", target, api.rafs())) == (204, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"fs_type": "rafs", "config": ""}, "'source' must be given"),
        ({"fs_type": "rafs", "source": "x"}, "'config' must be given"),
        ({"source": 7, "config": ""}, "'source' must be a string"),
        ({"source": "x", "config": {"device": {}}}, "'config' must be a string"),
        ({"source": "x", "config": "", "fs_type": None}, "'fs_type' must be a string"),
        ({"source": "x", "config": "", "prefetch_files": "/a"}, "'prefetch_files' must be a list"),
        ([], "no JSON object"),
    ],
)
async def test_bodies_of_mounts_that_are_none(
    image: BuiltImage, tmp_path: Path, body: Any, reason: str
) -> None:
    async with running(tmp_path, image) as api:
        for method in ("POST", "PUT"):
            status, error = await api.call(method, "/api/v1/mount?mountpoint=/a", body)
            assert status == 400 and reason in error["message"]
        assert (await api.call("POST", "/api/v1/mount", {"source": "x", "config": ""}))[0] == 400


async def test_errors_of_configurations_show_none_of_it(
    image: BuiltImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, image) as api:
        body = api.rafs()
        for config in (
            SECRET,
            f'{{"device": "{SECRET}"}}',
            body["config"].replace('"direct"', f'"{SECRET}"'),
        ):
            status, error = await api.call("POST", "/api/v1/mount?mountpoint=/a", body | {"config": config})
            assert status == 500 and error["message"].startswith("config: ")
            assert SECRET not in error["message"]
    assert SECRET not in caplog.text


async def test_levels_and_errors(image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", root.level)
    async with running(tmp_path, image) as api:
        for name, level in (("trace", 5), ("debug", 10), ("warn", 30), ("off", 51), ("info", 20)):
            assert await api.call("PUT", "/api/v1/daemon", {"log_level": name}) == (204, None)
            assert root.level == level
        assert (await api.call("PUT", "/api/v2/daemon", {"log_level": "info"}))[0] == 204
        for body in ({"log_level": "loud"}, {}, {"log_level": 3}, {"log_level": ["info"]}):
            status, error = await api.call("PUT", "/api/v1/daemon", body)
            assert status == 400 and "log_level" in error["message"]
        await api.call("DELETE", "/api/v1/mount?mountpoint=/nothing")
        events = await api.get("/api/v1/daemon/events")
        assert set(events) == {"max_errors", "total_errors", "max_size", "total_size", "errors"}
        assert events["total_errors"] == 1 and "/nothing" in events["errors"][0]


async def test_the_super_block(image: BuiltImage, tmp_path: Path) -> None:
    async with running(tmp_path, image) as api:
        await api.mount("/a", api.rafs())
        await api.mount("/b", {"fs_type": "passthrough", "source": str(tmp_path), "config": ""})
        block = await api.get("/api/v1/daemon/backend?mountpoint=/a")
        assert block["chunk_size"] == 65536 and block["inodes_count"] == 23 and block["blob_count"] == 1
        for query, status in (("", 400), ("?mountpoint=/b", 500), ("?mountpoint=/c", 500)):
            assert (await api.call("GET", "/api/v1/daemon/backend" + query))[0] == status


async def test_states(image: BuiltImage, tmp_path: Path) -> None:
    async with running(tmp_path, image) as api:
        status, error = await api.call("PUT", "/api/v1/daemon/start")
        assert status == 400 and "UnexpectedEvent" in error["message"]
        for name in ("sendfd", "takeover"):
            assert (await api.call("PUT", f"/api/v1/daemon/fuse/{name}"))[0] == 501
        assert await api.call("PUT", "/api/v1/daemon/exit") == (204, None)
        assert not api.stopped.is_set()  # not before the answer is made
        await asyncio.wait_for(api.stopped.wait(), 5)
        assert (await api.get("/api/v1/daemon"))["state"] == "STOPPED"
        assert (await api.call("PUT", "/api/v1/daemon/exit"))[0] == 400


async def test_metrics_have_nydusds_shapes(image: BuiltImage, tmp_path: Path) -> None:
    """Lengths that clients index without looking (gotcha 11)."""
    async with running(tmp_path, image) as api:
        await api.mount("/15x", api.rafs(prefetch=False))
        for query in ("", "?id=%2F15x", "?id=15x", "?id=/15", "?id=15"):
            files = await api.get("/api/v1/metrics" + query)
            lengths = {name: len(value) for name, value in files.items() if isinstance(value, list)}
            assert lengths == {
                "block_count_read": 8,
                "fop_hits": 15,
                "fop_errors": 15,
                "fop_cumulative_latency_total": 15,
                "read_latency_dist": 8,
            }
            assert files["id"] == "/15x" and files["data_read"] == files["nr_opens"] == 0
            assert [type(files[name]) for name in files if name.endswith(("enabled", "latency"))] == [
                bool
            ] * 4
            cache = await api.get("/api/v1/metrics/blobcache" + query)
            [name] = cache["underlying_files"]
            assert re.fullmatch(r"[0-9a-f]{64}\.blob\.data", name)
            assert (tmp_path / "cache" / name).exists() and cache["store_path"] == str(tmp_path / "cache")
            assert cache["data_all_ready"] is False and cache["entries_count"] == 0
            backend = await api.get("/api/v1/metrics/backend" + query)
            assert backend["backend_type"] == "localfs"
            assert backend["read_errors"] == 0 and backend["read_errors_by_kind"] == {}
            assert len(backend["read_count_block_size_dist"]) == 8
            assert [len(row) for row in backend["read_latency_sizes_dist"]] == [8] * 8
        assert await api.get("/api/v1/metrics/files") == {}
        assert await api.get("/api/v1/metrics/files?latest=true&id=15") == []
        assert await api.get("/api/v1/metrics/pattern") == []
        assert (await api.call("GET", "/api/v1/metrics/inflight"))[0] == 501


async def test_metrics_of_whom(image: BuiltImage, tmp_path: Path) -> None:
    """Without a name there must be no doubt; host directories have none."""
    async with running(tmp_path, image) as api:
        paths = ["", "/files", "/pattern", "/backend", "/blobcache"]

        async def statuses(query: str) -> set[int]:
            return {(await api.call("GET", f"/api/v1/metrics{path}{query}"))[0] for path in paths}

        assert await statuses("") == {404}
        await api.mount("/containers", {"fs_type": "passthrough_fs", "source": str(tmp_path), "config": ""})
        assert await statuses("") == await statuses("?id=/containers") == {404}
        await api.mount("/rafs/a/lowerdir", api.rafs("1"))
        assert await statuses("") == await statuses("?id=/1") == {200}
        await api.mount("/rafs/b/lowerdir", api.rafs("2"))
        assert await statuses("") == await statuses("?id=3") == {404}
        assert await statuses("?id=/1") == await statuses("?id=2") == {200}


async def test_settings_that_change_while_it_serves(
    image: BuiltImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path, image) as api:
        assert (await api.call("PUT", "/api/v1/config?id=/", {"registry_auth": SECRET}))[0] == 404
        await api.mount("/15x", api.rafs())
        for target in ("%2F", "/15x", "15x", "/15"):
            assert await api.call("PUT", f"/api/v1/config?id={target}", {"registry_auth": SECRET}) == (
                204,
                None,
            )
        changes = {"proxy_url": "http://p", "dragonfly_scheduler_endpoint": "http://d"}
        assert (await api.call("PUT", "/api/v1/config?id=/", changes))[0] == 204
        assert api.mounts.at("/15x").settings == changes | {"registry_auth": SECRET}
        shown = await api.get("/api/v1/config?id=/15x")
        assert shown == changes | {"registry_auth": "***"}
        for body, status in (({"color": "x"}, 500), ({"proxy_url": 7}, 400), ([], 400)):
            assert (await api.call("PUT", "/api/v1/config?id=/", body))[0] == status
        assert (await api.call("GET", "/api/v1/config"))[0] == 400
        assert (await api.call("PUT", "/api/v1/mount?mountpoint=/15x", api.rafs("17")))[0] == 204
        assert api.mounts.at("/15x").settings["registry_auth"] == SECRET  # a new image, the same registry
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("method", "query", "body", "status"),
    [
        ("GET", "", None, 400),
        ("GET", "?domain_id=d", None, 501),
        ("DELETE", "", None, 400),
        ("DELETE", "?domain_id=d&blob_id=b", None, 501),
        ("DELETE", "?blob_id=b", None, 501),
        ("PUT", "", {"type": "bootstrap", "id": "x", "config": {}}, 400),
        ("PUT", "", {"type": "bootstrap", "id": "x", "config": {"id": "x"}}, 501),
        ("PUT", "", {"type": "bootstrap", "id": "x", "config_v2": {"version": 2}}, 501),
        ("PUT", "", {"type": "bootstrap", "id": "x"}, 400),
        ("PUT", "", {"id": "x", "config": {"id": "x"}}, 400),
    ],
)
async def test_blobs_of_the_kernels_cache_are_another_modes(
    image: BuiltImage, tmp_path: Path, method: str, query: str, body: Any, status: int
) -> None:
    async with running(tmp_path, image) as api:
        got, error = await api.call(method, "/api/v2/blobs" + query, body)
        assert got == status and set(error) == {"code", "message"}


async def test_every_path_refuses_other_methods(image: BuiltImage, tmp_path: Path) -> None:
    async with running(tmp_path, image) as api:
        for path, methods in api.service.routes.items():
            for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "HEAD"} - set(methods):
                assert (await api.call(method, path))[0] == 400, (method, path)


async def test_prometheus(image: BuiltImage, tmp_path: Path) -> None:
    """Two images of one back-end and cache: what they share is told once."""
    async with running(tmp_path, image) as api:
        await api.mount("/a", api.rafs())
        await api.mount("/b", api.rafs("16"))
        answered = await answer(api.service.routes, "GET", "/metrics", b"")
        assert answered.status == 200 and answered.kind.startswith("text/plain; version=")
        assert answered.body is not None
        found = {}
        for family in text_string_to_metric_families(answered.body.decode()):
            for sample in family.samples:
                key = (sample.name, *sorted(sample.labels.values()))
                assert key not in found
                found[key] = sample.value
        place = str(image.blob_dir)
        assert found["vhostfs_backend_reads_total", place, "localfs"] > 0
        assert found["vhostfs_backend_read_bytes_total", place, "localfs"] > 0
        assert found["vhostfs_open_blobs", str(tmp_path / "cache")] == 1
        for mountpoint in ("/a", "/b"):
            assert found["vhostfs_mount_chunks", mountpoint] > 16
        assert found[("vhostfs_http_requests_total",)] == 0
