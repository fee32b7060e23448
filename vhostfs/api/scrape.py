"""GET /metrics of a daemon: from its mounts to the text for Prometheus. Heavy to import."""

from __future__ import annotations

import asyncio
from collections import Counter

from rafs.backend.config import encode_backend
from rafs.backend.place import place_of
from vhostfs.mounts import Mounts
from vhostfs.prometheus import CONTENT_TYPE, BackendSample, MountSample, StoreSample, exposition
from vhostfs.rafs_instance import RafsInstance


async def scrape(mounts: Mounts) -> tuple[bytes, str]:
    """The text and its media type. What agents have counted comes from them."""
    images = [(mount.mountpoint, mount.instance) for mount in mounts if mount.instance is not None]
    figures = await asyncio.gather(*(instance.figures() for _, instance in images))
    backends: dict[tuple[bytes, str], BackendSample] = {}
    stores: dict[str, StoreSample] = {}
    http: Counter[str] = Counter()
    for (_, instance), counted in zip(images, figures, strict=True):
        config, directory = instance.config.backend, str(instance.cache_dir)
        assert config is not None
        # images with the same of both share what was counted
        sample = BackendSample(config.type, place_of(config), counted.backend)
        backends[encode_backend(config), directory] = sample
        if directory not in stores:
            stores[directory] = StoreSample(directory, counted.fetch, counted.cache)
            http.update(counted.http)
    text = exposition(
        backends.values(),
        stores.values(),
        [
            _of_mount(mountpoint, instance)._replace(prefetch=counted.prefetch)
            for (mountpoint, instance), counted in zip(images, figures, strict=True)
        ],
        http,
    )
    return text, CONTENT_TYPE


def _of_mount(mountpoint: str, instance: RafsInstance) -> MountSample:
    counters = instance.counters.read()
    return MountSample(
        mountpoint,
        counters.reads,
        counters.missed_reads,
        counters.read_bytes,
        sum(blob.native.ready_count() for blob in instance.blobs),
        sum(blob.native.chunk_count for blob in instance.blobs),
    )
