"""Conversions in tests: between which places, what was told on the way, and what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from rafs.backend.http import HttpOptions, HttpPool
from rafs.build import BuildOptions
from rafs.convert import ConvertOptions, ConvertResult, convert_image
from rafs.oci.descriptor import Descriptor
from rafs.oci.layout import Layout
from rafs.oci.place import Place, open_place
from tests.fakes.converted import Fetch, tree_of
from tests.fakes.oci_image import EXPECTED
from tests.fakes.registries import docker_registry_at
from tests.fakes.served_registry import registry_served

LZ4 = 1
HTTP = HttpOptions(connect_timeout_s=5, timeout_s=20)


class Recorder:
    """A Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.outcomes: dict[str, str] = {}
        self.sizes: dict[tuple[str, str], int] = {}
        self._step: dict[str, str] = {}

    def begin(self, layer: str, step: str, size: int) -> None:
        self.steps.append((layer, step))
        self._step[layer] = step
        self.sizes[layer, step] = 0

    def advance(self, layer: str, size: int) -> None:
        self.sizes[layer, self._step[layer]] += size

    def end(self, layer: str, outcome: str) -> None:
        self.outcomes[layer] = outcome

    def say(self, text: str) -> None:
        pass


@asynccontextmanager
async def places(*names: str) -> AsyncIterator[list[Place]]:
    pool = HttpPool()
    opened = [open_place(name, pool, options=HTTP) for name in names]
    try:
        yield opened
    finally:
        for place in opened:
            place.close()
        await pool.close()


async def convert(source: str, target: str, work: Path, **options: Any) -> tuple[ConvertResult, Recorder]:
    recorder = Recorder()
    build = options.pop("build", BuildOptions(chunk_size=4096, jobs=2))
    async with places(source, target) as (one, two):
        result = await convert_image(one, two, ConvertOptions(work, build, **options), recorder)
    return result, recorder


@contextmanager
def served(registry: str, folder: Path) -> Iterator[str]:
    """One of the two registries; yield host and port."""
    if registry == "ours":
        with registry_served(folder) as host:
            yield host
    else:
        with docker_registry_at(folder) as docker:
            yield docker.host


def check_tree(bootstrap: Path, blob_files: list[Path], expected: dict[str, bytes] = EXPECTED) -> None:
    tree = tree_of(bootstrap, blob_files, LZ4)
    files = {name.decode(): entry.sha256 for name, entry in tree.items() if entry.sha256}
    assert files == {name: hashlib.sha256(data).hexdigest() for name, data in expected.items()}


def fetch_from(layout: Layout) -> Fetch:
    return lambda digest: layout.blob_path(digest).read_bytes()


async def fetch_all(place: Place, manifest: Descriptor) -> dict[str, bytes]:
    content = {manifest.digest: await place.read(manifest)}
    document = json.loads(content[manifest.digest])
    for raw in (document["config"], *document["layers"]):
        blob = Descriptor.parse(raw, "blob")
        content[blob.digest] = await place.read(blob)
    return content
