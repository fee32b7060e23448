"""The text for Prometheus: what figures become, and that none is forgotten. Its own parser reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rafs.backend.config import (
    S3,
    Azure,
    Backend,
    Gcs,
    HttpProxy,
    LocalDisk,
    LocalFs,
    Oss,
    Registry,
    backend_of,
)
from rafs.backend.place import place_of
from rafs.errors import BlobAuthError
from rafs.metered import LATENCY_LIMITS, MeteredBackend
from rafs.prefetch.statistics import PrefetchStatistics
from rafs.secret import Secret
from tests.fakes.blob_store import FAKE, running
from tests.fakes.blobs import BLOB_ID, MemoryBackend
from vhostfs.prometheus import CACHE, FETCH, BackendSample, MountSample, StoreSample, exposition


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """(name, labels) -> value; nothing may come twice."""
    found: dict[Any, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


async def read_some(backend: MeteredBackend, *lengths: int) -> None:
    for length in lengths:
        await backend.read_range(BLOB_ID, 0, length)


async def test_back_ends() -> None:
    backend = MeteredBackend(MemoryBackend({BLOB_ID: bytes(1 << 20)}))
    await read_some(backend, 10, 5000, 1 << 20)
    broken = MeteredBackend(MemoryBackend({BLOB_ID: b""}, answer=refuse))
    with pytest.raises(BlobAuthError):
        await read_some(broken, 1)
    text = exposition(
        [BackendSample("s3", "a/b/", backend.statistics), BackendSample("s3", "c/d/", broken.statistics)]
    )
    labels = {"type": "s3", "place": "a/b/"}
    assert value(text, "vhostfs_backend_reads_total", **labels) == 3
    assert value(text, "vhostfs_backend_read_bytes_total", **labels) == 5010 + (1 << 20)
    assert value(text, "vhostfs_backend_read_size_bytes_bucket", le="1023.0", **labels) == 1
    assert value(text, "vhostfs_backend_read_size_bytes_bucket", le="16383.0", **labels) == 2
    assert value(text, "vhostfs_backend_read_size_bytes_bucket", le="1048575.0", **labels) == 2
    assert value(text, "vhostfs_backend_read_size_bytes_sum", **labels) == 5010 + (1 << 20)
    for name in ("bucket", "count"):
        le = {"le": "+Inf"} if name == "bucket" else {}
        assert value(text, f"vhostfs_backend_read_seconds_{name}", **labels, **le) == 3
    counts = [
        value(text, "vhostfs_backend_read_seconds_bucket", le=str(limit), **labels)
        for limit in LATENCY_LIMITS
    ]
    assert counts == sorted(counts)
    failed = {"type": "s3", "place": "c/d/", "kind": "auth"}
    assert value(text, "vhostfs_backend_errors_total", **failed) == 1


def refuse(offset: int, length: int, data: bytes) -> bytes:
    raise BlobAuthError("no")


async def test_back_ends_of_one_place_are_added_up() -> None:
    backends = [MeteredBackend(MemoryBackend({BLOB_ID: bytes(100)})) for _ in range(2)]
    for backend in backends:
        await read_some(backend, 10, 20)
    text = exposition([BackendSample("registry", "h/r", backend.statistics) for backend in backends])
    labels = {"type": "registry", "place": "h/r"}
    assert value(text, "vhostfs_backend_reads_total", **labels) == 4
    assert value(text, "vhostfs_backend_read_seconds_count", **labels) == 4


async def test_every_figure_of_a_store_has_a_name(tmp_path: Path) -> None:
    """A new one needs a row in the table."""
    async with running(tmp_path, MemoryBackend({BLOB_ID: FAKE.content})) as store:
        fetch, cache = store.store.statistics(), store.governor.statistics()
    assert set(fetch) == set(FETCH) and set(cache) == set(CACHE)
    assert all(re.fullmatch(r"[a-z_]+", row.name) for row in [*FETCH.values(), *CACHE.values()])


def test_stores_and_mounts() -> None:
    ahead = PrefetchStatistics(began_at=1.0, judged=50, useful=20, stopped_by="precision")
    text = exposition(
        stores=[StoreSample("/cache", {"fetched_bytes": 7, "open_blobs": 2}, {"evicted_chunks": 3})],
        mounts=[MountSample("/a", 5, 2, 4096, 10, 20, ahead), MountSample('/"b"\n', 1, 0, 1, 1, 1)],
        http={"requests": 9, "retries": 1, "failed_network": 4, "2xx": 5},
    )
    assert value(text, "vhostfs_fetch_bytes_total", cache="/cache") == 7
    assert value(text, "vhostfs_open_blobs", cache="/cache") == 2
    assert value(text, "vhostfs_cache_evicted_chunks_total", cache="/cache") == 3
    assert value(text, "vhostfs_mount_missed_reads_total", mountpoint="/a") == 2
    assert value(text, "vhostfs_mount_ready_chunks", mountpoint="/a") == 10
    assert value(text, "vhostfs_mount_reads_total", mountpoint='/"b"\n') == 1
    assert value(text, "vhostfs_prefetch_judged_chunks_total", mountpoint="/a") == 50
    assert value(text, "vhostfs_prefetch_useful_chunks_total", mountpoint="/a") == 20
    assert value(text, "vhostfs_prefetch_was_stopped", mountpoint="/a") == 1
    assert text.count(b"vhostfs_prefetch_was_stopped{") == 1
    assert value(text, "vhostfs_http_requests_total") == 9
    assert value(text, "vhostfs_http_retries_total") == 1
    assert value(text, "vhostfs_http_failures_total", kind="network") == 4
    assert value(text, "vhostfs_http_answers_total", status="2xx") == 5
    assert value(text, "process_open_fds") > 0


@pytest.mark.parametrize(
    ("backend", "place"),
    [
        (backend_of("localfs", LocalFs(dir="/blobs", alt_dirs=["/x"])), "/blobs"),
        (backend_of("localfs", LocalFs(blob_file="/blob")), "/blob"),
        (backend_of("localdisk", LocalDisk(device_path="/dev/vdb")), "/dev/vdb"),
        (backend_of("registry", Registry(host="h:5000", repo="a/b", auth=Secret("hunter2"))), "h:5000/a/b"),
        (backend_of("s3", S3(endpoint="h", bucket_name="b", region="r", object_prefix="p/")), "h/b/p/"),
        (backend_of("s3", S3(endpoint="u:hunter2@h", bucket_name="b", region="r")), "h/b/"),
        (backend_of("s3", S3(bucket_name="b", region="r")), "r/b/"),
        (backend_of("oss", Oss(endpoint="h", bucket_name="b")), "h/b/"),
        (backend_of("gcs", Gcs(bucket_name="b", service_account_key=Secret("hunter2"))), "b/"),
        (backend_of("azure", Azure(account_name="a", container_name="c")), "a/c/"),
        (backend_of("http-proxy", HttpProxy(addr=Secret("http://u:hunter2@h:1/x?hunter2"))), "h:1"),
        (backend_of("http-proxy", HttpProxy(addr=Secret("/run/socket"))), "/run/socket"),
        (backend_of("http-proxy", HttpProxy(addr=Secret("hunter2"))), ""),
        (Backend(type="s3"), ""),
    ],
)
def test_places_show_no_secret(backend: Backend, place: str) -> None:
    assert place_of(backend) == place
