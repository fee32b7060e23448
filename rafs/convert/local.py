"""An image of layers into local files: blobs in a directory, and the bootstrap that is mounted."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rafs.build import MergeResult, merge_bootstraps
from rafs.convert.layer import ConvertedLayer, LayerConverter
from rafs.convert.options import ConvertOptions
from rafs.convert.progress import NoProgress, Progress
from rafs.convert.work_dir import WorkDir
from rafs.errors import BuildError
from rafs.oci.descriptor import INDEXES, Descriptor
from rafs.oci.image import Manifest, Platform, parse_index, wanted_manifests
from rafs.oci.place import Place, Report
from rafs.registry.push import Pushed


@dataclass(frozen=True, slots=True)
class LocalImage:
    """What was built of the image of one platform."""

    manifest: Descriptor
    layers: tuple[ConvertedLayer, ...]
    merged: MergeResult


class BlobFolder:
    """A directory of blobs named by their ids, as a BlobTarget."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.home = ""

    async def take_blob(self, blob: Descriptor, homes: Sequence[str]) -> bool:
        try:
            return (self._folder / blob.hex).stat().st_size == blob.size
        except FileNotFoundError:
            return False

    async def put_blob(self, blob: Descriptor, source: Path | bytes, report: Report) -> Pushed:
        assert isinstance(source, Path)
        await asyncio.to_thread(self._put, self._folder / blob.hex, source)
        report(blob.size)
        return Pushed.SENT

    def _put(self, target: Path, source: Path) -> None:
        fresh = target.with_name(f".vhostfs-build-{secrets.token_hex(8)}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, fresh)
            except OSError:  # another file system
                shutil.copyfile(source, fresh)
            fresh.rename(target)
        except OSError as error:
            raise BuildError(f"cannot write {str(target)!r}: {error.strerror}") from error
        finally:
            fresh.unlink(missing_ok=True)


async def build_layers(
    source: Place,
    bootstrap: Path,
    blob_dir: Path,
    options: ConvertOptions,
    progress: Progress | None = None,
) -> LocalImage:
    """Build the image that `source` names; `options.platforms` must leave one.

    Raises BuildError, BlobUnavailable.
    """
    options.build.validate()
    work_dir = WorkDir(options.work_dir)
    await asyncio.to_thread(work_dir.sweep)
    top = await source.resolve()
    if top.media_type in INDEXES:
        wanted, _ = wanted_manifests(parse_index(top, await source.read(top)), options.platforms)
        if len(wanted) > 1:
            names = ", ".join(str(Platform.of(one.platform)) for one in wanted)
            raise BuildError(f"the image is for several platforms ({names}); name one with --platform")
        top = wanted[0]
    manifest = Manifest.parse(top, await source.read(top))
    converter = LayerConverter(
        source,
        BlobFolder(blob_dir),
        work_dir,
        options.build,
        progress or NoProgress(),
        options.layers_at_once,
    )
    layers = await converter.convert_all(manifest.layers, keep=False)
    merged = await asyncio.to_thread(
        merge_bootstraps, [layer.bootstrap for layer in layers], bootstrap, prefetch=options.prefetch
    )
    return LocalImage(top, tuple(layers), merged)
