"""Where images are: a registry or a layout on disk, with the same calls for both.

    place = open_place("registry.example/web:1", pool)      or docker://registry.example/web:1
    place = open_place("images/web:1", pool)                or oci:images/web:1

A name with a scheme is what it says; without one it is a layout if that directory exists or if it begins with
`/`, `./` or `../`, else a reference to a registry.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from rafs.backend.config import Backend, LocalFs, Registry, Scheme, backend_of
from rafs.backend.http import HttpOptions, HttpPool
from rafs.errors import BlobCorrupt, BuildError
from rafs.oci.descriptor import MAX_DOCUMENT, Descriptor, InvalidImage
from rafs.oci.image import media_type_of
from rafs.oci.layout import Layout
from rafs.registry.client import RegistryClient
from rafs.registry.push import Pushed, Pusher
from rafs.registry.reference import Reference, default_scheme
from rafs.registry.referrers import push_referrer

#: of a blob that is fetched; what came of it is kept, so less is lost when it breaks off
_PART = 8 << 20
Report = Callable[[int], None]
P = ParamSpec("P")
R = TypeVar("R")


class BlobTarget(Protocol):
    """Where blobs are brought to. All raise BlobUnavailable or BuildError with the name of the place."""

    async def put_blob(self, blob: Descriptor, source: Path | bytes, report: Report) -> Pushed: ...

    async def take_blob(self, blob: Descriptor, homes: Sequence[str]) -> bool:
        """Whether it is there, or could be taken over from one of `homes` (see `home`) without its bytes."""
        ...

    @property
    def home(self) -> str:
        """What blobs can be taken over from, as `take_blob` knows it; "" for nothing."""
        ...


class Place(BlobTarget, Protocol):
    """One image at one place. All raise BlobUnavailable or BuildError with the name of the place."""

    async def resolve(self) -> Descriptor:
        """What the name stands for: a manifest or an index."""
        ...

    async def read(self, descriptor: Descriptor) -> bytes:
        """A manifest, an index or a configuration, verified."""
        ...

    async def fetch(self, blob: Descriptor, folder: Path, report: Report) -> Path:
        """A file with the verified bytes of a blob: below `folder`, or where it is anyhow.

        A fetch that broke off is gone on with. `report` gets numbers of bytes.
        """
        ...

    async def has_blob(self, digest: str) -> bool: ...

    async def put_manifest(self, manifest: Descriptor, content: bytes, *, is_named: bool) -> None:
        """Add a manifest or an index; `is_named`: it is what the place's name stands for from now on."""
        ...

    async def put_referrer(self, manifest: Descriptor, content: bytes) -> None:
        """Add a manifest that is found by its subject."""
        ...

    @property
    def backend(self) -> Backend:
        """Where a reader of the image finds its blobs."""
        ...

    def close(self) -> None: ...


def open_place(
    name: str,
    pool: HttpPool,
    *,
    options: HttpOptions | None = None,
    scheme: str | None = None,
) -> Place:
    """The place that `name` names; nothing is looked up yet. `scheme` of a registry: by default https, but
    http on this machine. Raises BuildError."""
    kind, colon, rest = name.partition(":")
    if colon and kind == "oci":
        return LayoutPlace(*_split_tag(rest))
    if name.startswith("docker://"):
        name = name.removeprefix("docker://")
    else:
        path, tag = _split_tag(name)
        if name.startswith(("/", "./", "../")) or path.is_dir():
            return LayoutPlace(path, tag)
    reference = Reference.parse(name)
    spoken: Scheme = "http" if (scheme or default_scheme(reference.registry_host)) == "http" else "https"
    client = RegistryClient(
        pool, reference.registry_host, reference.repository, scheme=spoken, options=options
    )
    return RegistryPlace(client, reference, spoken)


def _split_tag(text: str) -> tuple[Path, str | None]:
    path, colon, tag = text.rpartition(":")
    if colon and tag and "/" not in tag:
        return Path(path), tag
    return Path(text), None


class LayoutPlace:
    """An image in a layout. Work on files is done in threads."""

    def __init__(self, folder: Path, tag: str | None) -> None:
        self._layout = Layout(folder)
        self._tag = tag
        self._name = f"oci:{folder}" + (f":{tag}" if tag else "")

    def __str__(self) -> str:
        return self._name

    async def resolve(self) -> Descriptor:
        return await self._do(self._layout.resolve, self._tag)

    async def read(self, descriptor: Descriptor) -> bytes:
        return await self._do(self._layout.read, descriptor)

    async def fetch(self, blob: Descriptor, folder: Path, report: Report) -> Path:
        path = await self._do(self._layout.check, blob)
        report(blob.size)
        return path

    async def has_blob(self, digest: str) -> bool:
        return await self._do(self._layout.has, digest)

    async def put_blob(self, blob: Descriptor, source: Path | bytes, report: Report) -> Pushed:
        await self._do(self._layout.create)
        if await self.has_blob(blob.digest):
            return Pushed.THERE
        await self._do(self._layout.put, blob, source)
        report(blob.size)
        return Pushed.SENT

    async def take_blob(self, blob: Descriptor, homes: Sequence[str]) -> bool:
        return await self.has_blob(blob.digest)

    async def put_manifest(self, manifest: Descriptor, content: bytes, *, is_named: bool) -> None:
        await self._do(self._layout.create)
        await self._do(self._layout.put, manifest, content)
        if is_named:
            await self._do(self._layout.list, manifest, self._tag)

    async def put_referrer(self, manifest: Descriptor, content: bytes) -> None:
        await self.put_manifest(manifest, content, is_named=False)
        await self._do(self._layout.list, manifest, None)

    @property
    def home(self) -> str:
        return ""

    @property
    def backend(self) -> Backend:
        return backend_of("localfs", LocalFs(dir=str(self._layout.blob_path("").absolute())))

    def close(self) -> None:
        pass

    async def _do(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except OSError as error:
            raise BuildError(f"{self._name}: {error.filename!r}: {error.strerror}") from error


class RegistryPlace:
    """An image at a registry."""

    def __init__(self, client: RegistryClient, reference: Reference, scheme: Scheme) -> None:
        self._client = client
        self._scheme = scheme
        self._reference = reference
        self._pusher = Pusher(client)

    def __str__(self) -> str:
        return str(self._reference)

    async def resolve(self) -> Descriptor:
        manifest = await self._client.get_manifest(self._reference.target)
        what = f"{self._reference}"
        media_type = media_type_of(manifest.content, manifest.media_type, what)
        return Descriptor(media_type, manifest.digest, len(manifest.content))

    async def read(self, descriptor: Descriptor) -> bytes:
        if descriptor.media_type.endswith(("manifest.v1+json", "index.v1+json", "v2+json")):
            return (await self._client.get_manifest(descriptor.digest)).content
        if descriptor.size > MAX_DOCUMENT:
            raise InvalidImage(f"{self._reference}: {descriptor.digest} has more than {MAX_DOCUMENT} bytes")
        parts = [part async for part in self._client.blobs.stream(descriptor.digest, descriptor.size)]
        return b"".join(parts)

    async def fetch(self, blob: Descriptor, folder: Path, report: Report) -> Path:
        path = folder / blob.hex
        part = folder / f"{blob.hex}.part"
        if path.exists():
            report(blob.size)
            return path
        digest = hashlib.sha256()
        offset = await asyncio.to_thread(_digest_file, part, digest)
        report(offset)
        with part.open("ab") as file:
            while offset < blob.size:
                data = await self._client.blobs.read(blob.digest, offset, min(_PART, blob.size - offset))
                await asyncio.to_thread(file.write, data)
                await asyncio.to_thread(digest.update, data)
                offset += len(data)
                report(len(data))
        if offset != blob.size or digest.hexdigest() != blob.hex:
            part.unlink()  # what was there before may have been at fault
            raise BlobCorrupt(
                f"blob {blob.digest} of {self._reference}: what came has digest sha256:{digest.hexdigest()}; "
                "try again"
            )
        part.rename(path)
        return path

    async def has_blob(self, digest: str) -> bool:
        return await self._client.has_blob(digest)

    async def put_blob(self, blob: Descriptor, source: Path | bytes, report: Report) -> Pushed:
        return await self._pusher.push_blob(blob, source, on_sent=report)

    async def take_blob(self, blob: Descriptor, homes: Sequence[str]) -> bool:
        if await self._client.has_blob(blob.digest):
            return True
        mine = f"{self._client.host}/"
        names = [home.removeprefix(mine) for home in homes if home.startswith(mine)]
        return await self._pusher.mount_blob(blob, names)

    async def put_manifest(self, manifest: Descriptor, content: bytes, *, is_named: bool) -> None:
        target = self._reference.tag if is_named else None
        if is_named and target is None:
            raise BuildError(f"{self._reference} names a digest; name a tag to write to")
        await self._pusher.push_manifest(content, manifest.media_type, target)

    async def put_referrer(self, manifest: Descriptor, content: bytes) -> None:
        await push_referrer(self._pusher, content)

    @property
    def home(self) -> str:
        return f"{self._client.host}/{self._client.repository}"

    @property
    def backend(self) -> Backend:
        host, repository = self._client.host, self._client.repository
        return backend_of("registry", Registry(scheme=self._scheme, host=host, repo=repository))

    def close(self) -> None:
        self._client.close()


def _digest_file(path: Path, digest: hashlib._Hash) -> int:
    """Feed what is in `path` to `digest`; the number of bytes, 0 when there is no file."""
    size = 0
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
                size += len(data)
    except FileNotFoundError:
        pass
    return size
