"""One layer of an image: fetched, converted, and its blob brought to where the image goes.

What came of a layer is remembered in the working directory, in a folder for its digest and the options. So a
conversion that was interrupted goes on where it was, and a layer that many images share is converted once.

    KEY/bootstrap, record.json      the layer's metadata; which blob it needs, and where that was brought to
    KEY/blobs/HEX                   made, and not arrived yet
    KEY/fetched/HEX, HEX.part       of the source, until it is converted
    KEY/lock                        of the one who works on it
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from rafs.build import BuildOptions, BuildResult, PrefetchPolicy, TarSource, Whiteouts, build_image
from rafs.convert.progress import Progress
from rafs.convert.work_dir import WorkDir
from rafs.errors import BuildError
from rafs.oci.descriptor import Descriptor
from rafs.oci.place import BlobTarget, Place

#: of the format of what is remembered, and of what the builder makes of a layer: another one, another key
VERSION = 1
MEDIA_TYPE_BLOB = "application/vnd.oci.image.layer.nydus.blob.v1"
_MAX_HOMES = 32


class _Record(msgspec.Struct):
    """What is remembered: the blob, if the layer has data of its own, and where it is (see Place.home)."""

    blob_id: str | None
    blob_size: int
    homes: list[str] = []
    warnings: list[str] = []


@dataclass
class ConvertedLayer:
    """`blob` is None when no file of the layer has data that is not elsewhere."""

    source: Descriptor
    bootstrap: Path
    blob: Descriptor | None
    outcome: str
    warnings: list[str] = field(default_factory=list)


class LayerConverter:
    """Converts layers from `source` for `target`. Used on the event loop; works in threads."""

    def __init__(
        self,
        source: Place,
        target: BlobTarget,
        work_dir: WorkDir,
        options: BuildOptions,
        progress: Progress,
        at_once: int,
    ) -> None:
        self._source = source
        self._target = target
        self._work_dir = work_dir
        # all that a layer says must be known when layers are merged
        self._options = replace(
            options, whiteouts=Whiteouts.NONE, parent=None, prefetch=(), prefetch_policy=PrefetchPolicy.NONE
        )
        dictionary = options.chunk_dict
        self._dictionary = sha256_of(dictionary) if dictionary else None
        self._progress = progress
        self._slots = asyncio.Semaphore(at_once)
        self._running: dict[str, asyncio.Task[ConvertedLayer]] = {}

    async def convert_all(self, layers: Sequence[Descriptor], *, keep: bool) -> list[ConvertedLayer]:
        """Convert `layers` side by side; the first failure ends the others and is raised."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.convert(layer, keep=keep)) for layer in layers]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def convert(self, layer: Descriptor, *, keep: bool) -> ConvertedLayer:
        """Convert `layer`, once however often it is asked for. With `keep` the layer itself is brought too.

        Raises BuildError, BlobUnavailable.
        """
        task = self._running.get(layer.digest)
        if task is None:
            task = self._running[layer.digest] = asyncio.create_task(self._convert_once(layer, keep))
        return await task

    async def _convert_once(self, layer: Descriptor, keep: bool) -> ConvertedLayer:
        _refuse_unknown(layer)
        async with self._slots, self._work_dir.layer(self._key(layer)) as folder:
            return await self._convert(layer, folder, keep)

    async def _convert(self, layer: Descriptor, folder: Path, keep: bool) -> ConvertedLayer:
        record = await asyncio.to_thread(_read_record, folder)
        outcome = "converted before"
        original = None
        if record is None or not await self._bring_blob(layer, folder, record):
            original = await self._fetch(layer, folder)
            record = await self._build(layer, original, folder)
            outcome = "converted"
            if not await self._bring_blob(layer, folder, record):
                raise BuildError(f"blob {record.blob_id} is gone from {str(folder)!r}; convert again")
        if keep:
            await self._bring_original(layer, folder, original)
        for file in (folder / "fetched").glob("*"):
            file.unlink(missing_ok=True)
        self._progress.end(layer.digest, outcome)
        blob = None
        if record.blob_id is not None:
            blob = Descriptor(MEDIA_TYPE_BLOB, f"sha256:{record.blob_id}", record.blob_size)
        return ConvertedLayer(layer, folder / "bootstrap", blob, outcome, record.warnings)

    def _key(self, layer: Descriptor) -> str:
        options = self._options
        chosen = [
            VERSION,
            layer.digest,
            options.fs_version,
            options.compressor,
            options.digester,
            options.chunk_size,
            self._dictionary,
        ]
        return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()

    async def _fetch(self, layer: Descriptor, folder: Path) -> Path:
        self._progress.begin(layer.digest, "fetch", layer.size)
        fetched = folder / "fetched"
        fetched.mkdir(exist_ok=True)
        return await self._source.fetch(
            layer, fetched, lambda size: self._progress.advance(layer.digest, size)
        )

    async def _build(self, layer: Descriptor, path: Path, folder: Path) -> _Record:
        self._progress.begin(layer.digest, "convert", layer.size)
        loop = asyncio.get_running_loop()
        is_cancelled = threading.Event()
        try:
            result = await asyncio.to_thread(self._build_now, layer, path, folder, loop, is_cancelled)
        except asyncio.CancelledError:
            is_cancelled.set()
            raise
        blob = result.blob
        record = _Record(
            blob.blob_id if blob else None, blob.size if blob else 0, warnings=list(result.warnings)
        )
        await asyncio.to_thread(_write_record, folder, record)
        return record

    def _build_now(
        self,
        layer: Descriptor,
        path: Path,
        folder: Path,
        loop: asyncio.AbstractEventLoop,
        is_cancelled: threading.Event,
    ) -> BuildResult:
        with path.open("rb") as file:
            read_to = 0

            class Report:
                def scanned(self, entries: int) -> None:
                    pass

                def packed(reporter, done: int, total: int | None) -> None:
                    nonlocal read_to
                    if is_cancelled.is_set():
                        raise BuildError("the conversion was ended")
                    at = file.tell()
                    loop.call_soon_threadsafe(self._progress.advance, layer.digest, at - read_to)
                    read_to = at

            source = TarSource(file, f"layer {layer.digest}")
            return build_image(source, folder / "bootstrap", folder / "blobs", self._options, Report())

    async def _bring_blob(self, layer: Descriptor, folder: Path, record: _Record) -> bool:
        """Bring the blob to the target; False when that cannot be done without converting again."""
        if record.blob_id is None:
            return True
        blob = Descriptor(MEDIA_TYPE_BLOB, f"sha256:{record.blob_id}", record.blob_size)
        path = folder / "blobs" / record.blob_id
        if not await self._target.take_blob(blob, record.homes):
            if not path.exists():
                return False
            self._progress.begin(layer.digest, "push", blob.size)
            await self._target.put_blob(blob, path, lambda size: self._progress.advance(layer.digest, size))
        home = self._target.home
        if home and home not in record.homes:
            record.homes = [home, *record.homes][:_MAX_HOMES]
            await asyncio.to_thread(_write_record, folder, record)
        path.unlink(missing_ok=True)
        return True

    async def _bring_original(self, layer: Descriptor, folder: Path, path: Path | None) -> None:
        if await self._target.take_blob(layer, [self._source.home]):
            return
        if path is None:
            path = await self._fetch(layer, folder)
        self._progress.begin(layer.digest, "push", layer.size)
        await self._target.put_blob(layer, path, lambda size: self._progress.advance(layer.digest, size))


def sha256_of(file: Path) -> str:
    """Raises BuildError."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BuildError(f"cannot read bootstrap {str(file)!r}: {error.strerror}") from error


def _refuse_unknown(layer: Descriptor) -> None:
    kind = layer.media_type
    if layer.more.get("urls"):
        raise BuildError(f"layer {layer.digest} is not in the registry but elsewhere; it cannot be converted")
    if kind.endswith("+encrypted"):
        raise BuildError(f"layer {layer.digest} is encrypted; decrypt the image first")
    if "tar" not in kind:
        raise BuildError(f"layer {layer.digest} is a {kind[:100]!r} and no tar; is this a container image?")


def _read_record(folder: Path) -> _Record | None:
    with suppress(OSError, msgspec.MsgspecError):
        record = msgspec.json.decode((folder / "record.json").read_bytes(), type=_Record)
        if (folder / "bootstrap").is_file():
            return record
    return None


def _write_record(folder: Path, record: _Record) -> None:
    fresh = folder / "record.new"
    fresh.write_bytes(msgspec.json.encode(record))
    fresh.rename(folder / "record.json")
