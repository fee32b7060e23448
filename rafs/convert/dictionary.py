"""A converted image as a chunk dictionary: its bootstrap, out of the layer that has it."""

from __future__ import annotations

import asyncio
import shutil
import tarfile
from pathlib import Path

from rafs.convert.bootstrap_layer import NAME_IN_LAYER
from rafs.convert.document import is_converted
from rafs.errors import BuildError
from rafs.oci.descriptor import INDEXES, Descriptor
from rafs.oci.image import Manifest, parse_index
from rafs.oci.place import Place

#: as the reader has it
MAX_BOOTSTRAP = 1 << 30


async def fetch_dictionary(place: Place, folder: Path) -> Path:
    """The bootstrap of the RAFS image that `place` names, or of the first one in its index, in `folder`.

    Raises BuildError, BlobUnavailable.
    """
    top = await place.resolve()
    candidates = parse_index(top, await place.read(top)) if top.media_type in INDEXES else [top]
    for candidate in candidates:
        manifest = Manifest.parse(candidate, await place.read(candidate))
        if is_converted(manifest.layers):
            path = await place.fetch(manifest.layers[-1], folder, lambda size: None)
            return await asyncio.to_thread(_extract, path, manifest.layers[-1], folder / "dictionary.boot")
    raise BuildError(f"{place} is no RAFS image, so it cannot be a chunk dictionary; convert it first")


def _extract(layer: Path, descriptor: Descriptor, target: Path) -> Path:
    what = f"the bootstrap layer {descriptor.digest}"
    try:
        with tarfile.open(layer, "r:*") as archive:
            member = archive.getmember(NAME_IN_LAYER)
            file = archive.extractfile(member) if member.isreg() and member.size <= MAX_BOOTSTRAP else None
            if file is None:
                raise BuildError(f"{what} has a {NAME_IN_LAYER} that is no bootstrap")
            with target.open("wb") as out:
                shutil.copyfileobj(file, out)
    except KeyError:
        raise BuildError(f"{what} has no {NAME_IN_LAYER}") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BuildError(f"{what} cannot be read: {error}") from error
    return target
