"""Where the agent's blobs come from: the back-ends of all workers, each made once, and which blob has which.

Workers with the same configuration share a back-end, with its connections and tokens. A blob that several
use may have several: a worker's misses are asked of its own first (`asking`), and of the others when that
one fails, so nobody else depends on what one worker has sent. What comes is verified whoever it came from.

The files that a configuration names are read by descriptors that the worker opened: the agent reads nothing
by a name that it was told.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec

from rafs.backend import BlobBackend
from rafs.backend.config import Backend, decode_backend
from rafs.errors import BackendConfigError, BlobUnavailable, RafsError
from rafs.metered import BackendStatistics, MeteredBackend
from vhostfs.nydusd.config_paths import backend_files
from virtqueue.fd import Fd

#: stands for a file that the worker could not open
_NOWHERE = "/nonexistent/"
_Result = TypeVar("_Result")
Make = Callable[[Backend], BlobBackend]


class Source:
    """A back-end with its settings, and the files that it reads. Made by `Sources`."""

    def __init__(
        self,
        key: bytes,
        config: bytes,
        backend: BlobBackend,
        files: Mapping[str, Fd],
        names: Mapping[str, str],
    ) -> None:
        self.key = key
        self.config = config
        self.backend = MeteredBackend(backend)
        self.files = dict(files)
        self.users = 0
        self._names = names

    def name(self, error: RafsError) -> RafsError:
        """The error, with the names that the configuration has for what is read."""
        text = str(error)
        for place in sorted(self._names, key=len, reverse=True):  # .../12 before .../1
            text = text.replace(place, self._names[place])
        error.args = (text,)
        return error


_asking: ContextVar[Source | None] = ContextVar("asking", default=None)


@contextmanager
def asking(source: Source) -> Iterator[None]:
    """What is fetched for whoever has this source, by tasks that begin here, is asked of it first."""
    token = _asking.set(source)
    try:
        yield
    finally:
        _asking.reset(token)


class Sources:
    """All of them, by what they are made of. `make` makes a back-end, and raises RafsError."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._all: dict[bytes, Source] = {}

    def acquire(self, config: bytes, files: Mapping[str, Fd], settings: Mapping[str, str]) -> Source:
        """The source for `encode_backend` of a configuration; takes descriptors that it has use for.

        Every call is matched by one of `release`. Raises RafsError.
        """
        key = _key(config, files, settings)
        source = self._all.get(key)
        if source is None:
            source = self._new(key, config, files, settings)
            self._all[key] = source
        source.users += 1
        return source

    def adjusted(self, source: Source, settings: Mapping[str, str]) -> Source:
        """The same with other settings; to be released too. Raises RafsError."""
        files = {path: Fd(os.dup(fd.fileno())) for path, fd in source.files.items()}
        try:
            return self.acquire(source.config, files, settings)
        finally:
            for fd in files.values():
                fd.close()

    def figures(self) -> Iterator[tuple[bytes, BackendStatistics]]:
        """What each has counted: (`encode_backend` of its configuration, ...)."""
        for source in self._all.values():
            yield source.config, source.backend.statistics

    def _new(self, key: bytes, config: bytes, files: Mapping[str, Fd], settings: Mapping[str, str]) -> Source:
        try:
            parsed = decode_backend(config)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BackendConfigError("the configuration of the back-end cannot be read") from None
        taken = {path: Fd(fd.take()) for path, fd in files.items()}
        try:
            places = _places(parsed, taken)
            raw: Any = msgspec.json.decode(config)
            backend = self._make(decode_backend(msgspec.json.encode(_replace(raw, places))))
            source = Source(key, config, backend, taken, {place: path for path, place in places.items()})
            if settings:
                source.backend.set(settings)
        except BaseException:
            for fd in taken.values():
                fd.close()
            raise
        return source

    async def release(self, source: Source) -> None:
        """One user less; with the last one the back-end is closed."""
        source.users -= 1
        if source.users == 0:
            self._all.pop(source.key, None)
            await source.backend.close()
            for fd in source.files.values():
                fd.close()


class Routes:
    """The BlobBackend of all blobs: hands on to the sources of each."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._of_blob: defaultdict[str, list[Source]] = defaultdict(list)

    def add(self, blob_id: str, source: Source) -> None:
        """The blob can be had from `source` too. A source that is added twice is removed twice."""
        self._of_blob[blob_id].append(source)

    def remove(self, blob_id: str, source: Source) -> None:
        """Undo one `add`."""
        routes = self._of_blob[blob_id]
        routes.remove(source)
        if not routes:
            del self._of_blob[blob_id]

    async def blob_size(self, blob_id: str) -> int:
        return await self._ask(blob_id, lambda backend: backend.blob_size(blob_id))

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        return await self._ask(
            blob_id, lambda backend: backend.read_range(blob_id, offset, length, again=again)
        )

    async def close(self) -> None:
        """The sources are closed when they are released."""

    async def _ask(self, blob_id: str, ask: Callable[[BlobBackend], Awaitable[_Result]]) -> _Result:
        first_error: RafsError | None = None
        for source in self._in_order(blob_id):
            source.users += 1  # it must not be closed while it is asked
            try:
                return await ask(source.backend)
            except BlobUnavailable as error:
                first_error = first_error or source.name(error)
            finally:
                await self._sources.release(source)
        raise first_error or BlobUnavailable(f"blob {blob_id}: nobody serves it any more")

    def _in_order(self, blob_id: str) -> list[Source]:
        routes = list(dict.fromkeys(self._of_blob.get(blob_id, ())))
        own = _asking.get()
        return [own, *(route for route in routes if route is not own)] if own in routes else routes


def _key(config: bytes, files: Mapping[str, Fd], settings: Mapping[str, str]) -> bytes:
    """What decides whether two workers mean the same: a path may be another file for the other one."""
    digest = hashlib.sha256(len(config).to_bytes(8) + config)
    identities = []
    for path, fd in sorted(files.items()):
        status = os.fstat(fd.fileno())
        identities.append([path, status.st_dev, status.st_ino])
    digest.update(msgspec.json.encode([identities, sorted(settings.items())]))
    return digest.digest()


def _places(config: Backend, files: Mapping[str, Fd]) -> dict[str, str]:
    """For each path in the configuration one that leads to the worker's own descriptor, or nowhere."""
    return {
        path: f"/proc/self/fd/{files[path].fileno()}" if path in files else f"{_NOWHERE}{number}"
        for number, path in enumerate(dict.fromkeys(backend_files(config)))
    }


def _replace(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _replace(inner, places) for name, inner in value.items()}
    if isinstance(value, list):
        return [_replace(inner, places) for inner in value]
    return places.get(value, value) if isinstance(value, str) else value
