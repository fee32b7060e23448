"""Converting an image, the whole path: layers, merged bootstrap, configuration, manifest, index.

Everything is pushed before what names it, and the name comes last: whatever breaks off leaves the target as
it was, but for content that nothing names yet and the next try will find.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rafs.build import MergeResult, merge_bootstraps
from rafs.build.errors import BuildError
from rafs.convert.bootstrap_layer import pack_bootstrap_layer
from rafs.convert.dictionary import fetch_dictionary
from rafs.convert.document import (
    OS_FEATURE,
    RAFS_CONFIG,
    blob_layer,
    bootstrap_layer,
    converted_config,
    converted_manifest,
    is_converted,
)
from rafs.convert.layer import MEDIA_TYPE_BLOB, ConvertedLayer, LayerConverter
from rafs.convert.options import ConvertOptions, KeepOci
from rafs.convert.progress import NoProgress, Progress
from rafs.convert.work_dir import WorkDir
from rafs.oci.descriptor import (
    INDEXES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    RAFS_MANIFEST,
    Descriptor,
    pack_document,
    parse_document,
)
from rafs.oci.image import Manifest, Platform, parse_index, wanted_manifests
from rafs.oci.place import Place

#: of indexes in indexes
_MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """The image of one platform; sizes in bytes."""

    platform: Platform
    original: Descriptor
    manifest: Descriptor
    content: bytes  # of the manifest
    layers: tuple[ConvertedLayer, ...]
    blobs: tuple[Descriptor, ...]
    bootstrap: Descriptor
    merged: MergeResult


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """`named` is what the target's name stands for now."""

    named: Descriptor
    images: tuple[ConvertedImage, ...]
    warnings: tuple[str, ...]


async def convert_image(
    source: Place, target: Place, options: ConvertOptions, progress: Progress | None = None
) -> ConvertResult:
    """Convert the image that `source` names for `target`. Raises BuildError, BlobUnavailable."""
    options.build.validate()
    work_dir = WorkDir(options.work_dir)
    await asyncio.to_thread(work_dir.sweep)
    with work_dir.scratch() as folder:
        if options.dictionary is not None:
            bootstrap = await fetch_dictionary(options.dictionary, folder)
            options = replace(options, build=replace(options.build, chunk_dict=bootstrap))
        return await _Conversion(source, target, options, work_dir, progress or NoProgress()).run()


class _Conversion:
    def __init__(
        self, source: Place, target: Place, options: ConvertOptions, work_dir: WorkDir, progress: Progress
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._work_dir = work_dir
        self._progress = progress
        self._layers = LayerConverter(
            source, target, work_dir, options.build, progress, options.layers_at_once
        )

    async def run(self) -> ConvertResult:
        keep = self._options.keep_oci
        top = await self._source.resolve()
        content = await self._source.read(top)
        wanted: list[Descriptor] = [top]
        others: list[Descriptor] = []
        if top.media_type in INDEXES:
            wanted, others = wanted_manifests(parse_index(top, content), self._options.platforms)
        images = [await self._convert(one) for one in wanted]
        if keep is not KeepOci.NONE:
            chosen = keep is KeepOci.INDEX and bool(self._options.platforms)
            for one in [*wanted, *([] if chosen else others)]:
                await self._copy(one)
        if keep is KeepOci.REFERRER:
            named = top
            await self._target.put_manifest(top, content, is_named=True)
        elif keep is KeepOci.NONE and len(images) == 1:
            named = images[0].manifest
            await self._target.put_manifest(named, images[0].content, is_named=True)
        else:
            entries = []
            if keep is KeepOci.INDEX:
                entries = [one.original for one in images] + ([] if self._options.platforms else others)
            named = await self._put_index(entries, images)
        warnings = dict.fromkeys(
            warning
            for image in images
            for warning in (*(w for layer in image.layers for w in layer.warnings), *image.merged.warnings)
        )
        return ConvertResult(named, tuple(images), tuple(warnings))

    async def _put_index(self, entries: Sequence[Descriptor], images: Sequence[ConvertedImage]) -> Descriptor:
        """The originals first: clients take the first one that fits them."""
        converted = []
        for image in images:
            platform = dict(image.original.platform)
            if entries:
                platform["os.features"] = [OS_FEATURE]
            converted.append(image.manifest.but(platform=platform, artifactType=RAFS_MANIFEST))
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [entry.document() for entry in (*entries, *converted)],
        }
        content = pack_document(document)
        index = Descriptor.of(content, OCI_INDEX)
        await self._target.put_manifest(index, content, is_named=True)
        return index

    async def _convert(self, descriptor: Descriptor) -> ConvertedImage:
        keep = self._options.keep_oci
        original = Manifest.parse(descriptor, await self._source.read(descriptor))
        if is_converted(original.layers):
            raise BuildError(f"manifest {descriptor.digest} is a RAFS image already; copy it as it is")
        config = parse_document(
            await self._source.read(original.config), f"configuration {original.config.digest}"
        )
        layers = await self._layers.convert_all(original.layers, keep=keep is not KeepOci.NONE)
        with self._work_dir.scratch() as folder:
            self._progress.say(f"merging {len(layers)} layers")
            merged = await asyncio.to_thread(
                merge_bootstraps,
                [layer.bootstrap for layer in layers],
                folder / "merged",
                prefetch=self._options.prefetch,
            )
            boot, diff_id, path = await asyncio.to_thread(
                pack_bootstrap_layer, merged.bootstrap_path, folder, OCI_LAYER_GZIP
            )
            await self._target.put_blob(boot, path, _no_report)
        shared, own, has_blob = _used_blobs(layers, merged)
        homes = [self._options.dictionary.home] if self._options.dictionary else []
        for blob in shared:
            if not await self._target.take_blob(blob, homes):
                raise BuildError(
                    f"the chunk dictionary refers to blob {blob.digest}, which is not where the image goes; "
                    "push the dictionary's image there first"
                )
        blobs = [*shared, *own]
        packed_config = pack_document(converted_config(config, has_blob, blobs, diff_id))
        kind = RAFS_CONFIG if keep is KeepOci.INDEX else OCI_CONFIG
        config_blob = Descriptor.of(packed_config, kind)
        await self._target.put_blob(config_blob, packed_config, _no_report)
        named_layers = [
            *(blob_layer(blob) for blob in blobs),
            bootstrap_layer(boot, str(self._options.build.fs_version)),
        ]
        content = pack_document(
            converted_manifest(
                descriptor,
                original.document,
                config_blob,
                named_layers,
                has_subject=keep is KeepOci.REFERRER,
            )
        )
        manifest = Descriptor.of(content, OCI_MANIFEST)
        if keep is KeepOci.REFERRER:
            await self._target.put_referrer(manifest, content)
        else:
            await self._target.put_manifest(manifest, content, is_named=False)
        platform = Platform.of(descriptor.platform or config)
        named = descriptor if descriptor.platform else descriptor.but(platform=_raw_platform(config))
        return ConvertedImage(platform, named, manifest, content, tuple(layers), tuple(blobs), boot, merged)

    # originals

    async def _copy(self, descriptor: Descriptor, depth: int = 0) -> None:
        """Bring a manifest with all that it names to the target."""
        content = await self._source.read(descriptor)
        if descriptor.media_type in INDEXES:
            if depth >= _MAX_DEPTH:
                raise BuildError(f"index {descriptor.digest} is in too many others")
            for one in parse_index(descriptor, content):
                await self._copy(one, depth + 1)
        else:
            manifest = Manifest.parse(descriptor, content)
            for blob in (manifest.config, *manifest.layers):
                if not blob.more.get("urls"):
                    await self._copy_blob(blob)
        await self._target.put_manifest(descriptor, content, is_named=False)

    async def _copy_blob(self, blob: Descriptor) -> None:
        if await self._target.take_blob(blob, [self._source.home]):
            return
        with self._work_dir.scratch() as folder:
            path = await self._source.fetch(blob, folder, _no_report)
            await self._target.put_blob(blob, path, _no_report)


def _used_blobs(
    layers: Sequence[ConvertedLayer], merged: MergeResult
) -> tuple[list[Descriptor], list[Descriptor], list[bool]]:
    """The blobs that the merged image needs: (those of no layer, those of layers in order, which layers)."""
    used = {facts.blob_id: facts for facts in merged.blobs}
    own: list[Descriptor] = []
    has_blob = []
    for layer in layers:
        is_first = layer.blob is not None and layer.blob.hex in used and layer.blob not in own
        has_blob.append(is_first)
        if is_first and layer.blob is not None:
            own.append(layer.blob)
    known = {blob.hex for blob in own}
    shared = [
        Descriptor(MEDIA_TYPE_BLOB, f"sha256:{blob_id}", facts.size)
        for blob_id, facts in used.items()
        if blob_id not in known
    ]
    return shared, own, has_blob


def _raw_platform(config: dict[str, Any]) -> dict[str, Any]:
    keys = ("architecture", "os", "os.version", "variant")
    return {key: config[key] for key in keys if config.get(key)}


def _no_report(size: int) -> None:
    pass
