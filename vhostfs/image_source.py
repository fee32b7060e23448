"""What an image on a command line is: a bootstrap in a file, or an image in an OCI layout or at a registry.

    found = find_image("registry.example/web:1-nydus", folder)
    found.bootstrap         # a file: in `folder`, named by its layer's digest, for what was fetched
    found.backend           # where its blobs are; None for a bootstrap in a file, which does not say

The image is for this machine's platform. Network is used only to fetch manifest and bootstrap.
"""

from __future__ import annotations

import asyncio
import platform
import tarfile
from pathlib import Path
from typing import NamedTuple

from rafs.backend.config import Backend
from rafs.backend.http import HttpOptions, HttpPool
from rafs.convert.bootstrap_layer import NAME_IN_LAYER
from rafs.convert.document import is_converted
from rafs.errors import BuildError
from rafs.oci.descriptor import MANIFESTS, Descriptor
from rafs.oci.image import Manifest, Platform, parse_index, wanted_manifests
from rafs.oci.place import Place, open_place

MAX_BOOTSTRAP = 4 << 30
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


class FoundImage(NamedTuple):
    """See the module."""

    bootstrap: Path
    backend: Backend | None


def find_image(name: str, folder: Path) -> FoundImage:
    """Find it, and fetch its bootstrap into `folder` where it is not a file. Blocks.

    Raises BuildError, BlobUnavailable, OSError: there is no such image, or it is not a RAFS image.
    """
    path = Path(name)
    if path.is_file():
        return FoundImage(path, None)
    return asyncio.run(_find(name, folder))


async def _find(name: str, folder: Path) -> FoundImage:
    pool = HttpPool()
    place = open_place(name, pool, options=HttpOptions(), scheme=None)
    try:
        manifest = await _manifest_of(place, await place.resolve(), name)
        layer = manifest.layers[-1]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        bootstrap = folder / f"{layer.digest.partition(':')[2]}.boot"
        if not bootstrap.exists():
            packed = await place.fetch(layer, folder, lambda done: None)
            await asyncio.to_thread(_unpack, packed, bootstrap, name)
        return FoundImage(bootstrap, place.backend)
    finally:
        place.close()
        await pool.close()


async def _manifest_of(place: Place, descriptor: Descriptor, name: str) -> Manifest:
    content = await place.read(descriptor)
    if descriptor.media_type in MANIFESTS:
        candidates = [Manifest.parse(descriptor, content)]
    else:
        machine = platform.machine()
        here = Platform.parse(f"linux/{_MACHINES.get(machine, machine)}")
        wanted, _ = wanted_manifests(parse_index(descriptor, content), [here])
        candidates = [Manifest.parse(one, await place.read(one)) for one in wanted]
    for manifest in candidates:
        if is_converted(manifest.layers):
            return manifest
    raise BuildError(f"{name} is not a RAFS image; make one of it with `vhostfs convert`")


def _unpack(packed: Path, bootstrap: Path, name: str) -> None:
    """Take the bootstrap out of its layer: whole, or nothing."""
    fresh = bootstrap.with_suffix(".new")
    try:
        with tarfile.open(packed) as tar:
            member = tar.getmember(NAME_IN_LAYER)
            content = tar.extractfile(member)
            if content is None or member.size > MAX_BOOTSTRAP:
                raise BuildError(f"{name}: its bootstrap is no file, or has more than {MAX_BOOTSTRAP} bytes")
            with fresh.open("wb") as file:
                while piece := content.read(1 << 20):
                    file.write(piece)
        fresh.replace(bootstrap)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise BuildError(f"{name}: its last layer has no {NAME_IN_LAYER}: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)
