"""One blob on its way to a repository: an upload session from its beginning to its end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote

from rafs.backend.body import drain
from rafs.backend.http import HttpFailure
from rafs.backend.mirrors import Route
from rafs.oci.descriptor import Descriptor
from rafs.registry.auth import Scopes
from rafs.registry.client import RegistryClient

#: times that one upload is taken up again after a part failed
MAX_RESUMES = 8
_READ_SIZE = 1 << 20
#: a registry that asks for larger parts than that is not asked twice
_MAX_MIN_PART = 1 << 30
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,15})")
_OCTETS = {"Content-Type": "application/octet-stream"}


class Upload:
    """`run` it once. `source` has the bytes of `blob`; `on_sent` is told how many more, or fewer, left."""

    def __init__(
        self,
        client: RegistryClient,
        scopes: Scopes,
        route: Route,
        blob: Descriptor,
        source: Path | bytes,
        *,
        part_size: int,
        on_sent: Callable[[int], None],
    ) -> None:
        self._client = client
        self._scopes = scopes
        self._route = route
        self._blob = blob
        self._source = source
        self._part_size = part_size
        self._on_sent = on_sent
        self._reported = 0

    async def run(self) -> None:
        """Send all. Raises HttpFailure."""
        try:
            location, smallest = await self._begin()
            if self._blob.size > self._part_size:
                location = await self._send_parts(location, max(self._part_size, smallest))
                await self._finish(location, self._blob.size)
            else:
                await self._finish(location, 0)
        except BaseException:
            self._report(0)
            raise

    async def _begin(self) -> tuple[str, int]:
        """Where to send it, and how large the parts must be at least."""
        async with self._client.request(
            self._route, "POST", "blobs/uploads/", ok=(202,), scopes=self._scopes
        ) as response:
            await drain(response)
            smallest = response.headers.get("OCI-Chunk-Min-Length", "")
            least = min(int(smallest), _MAX_MIN_PART) if smallest.isdecimal() else 0
            return self._location(response.headers.get("Location")), least

    async def _send_parts(self, location: str, part_size: int) -> str:
        offset = resumes = 0
        while offset < self._blob.size:
            end = min(offset + part_size, self._blob.size)
            try:
                location = await self._send_part(location, offset, end)
                offset = end
            except HttpFailure as failure:
                resumes += 1
                if resumes > MAX_RESUMES or not (failure.again or failure.status == 416):
                    raise
                try:
                    location, offset = await self._ask(location)
                except HttpFailure:
                    raise failure from None  # the session is gone: the caller begins another one
                self._report(offset)
        return location

    async def _send_part(self, location: str, offset: int, end: int) -> str:
        headers = {**_OCTETS, "Content-Range": f"{offset}-{end - 1}", "Content-Length": str(end - offset)}
        async with self._client.request(
            self._route,
            "PATCH",
            location,
            ok=(202,),
            headers=headers,
            data=lambda: self._bytes(offset, end),
            length=end - offset,
            scopes=self._scopes,
        ) as response:
            await drain(response)
            return self._location(response.headers.get("Location"))

    async def _ask(self, location: str) -> tuple[str, int]:
        """Where to go on, and from which byte."""
        async with self._client.request(
            self._route, "GET", location, ok=(204,), scopes=self._scopes
        ) as response:
            await drain(response)
            # 0-0 is what a session says that has nothing, or one byte; one byte again is no loss
            match = _RANGE.fullmatch(response.headers.get("Range", "0-0"))
            last = int(match[1]) if match else 0
            offset = last + 1 if last else 0
            if offset > self._blob.size:
                raise HttpFailure("corrupt", self._route.name, f"has {offset} bytes of {self._blob.size}")
            return self._location(response.headers.get("Location", location)), offset

    async def _finish(self, location: str, offset: int) -> None:
        """Send the rest from `offset`, and say that this was all."""
        size = self._blob.size - offset
        url = location + ("&" if "?" in location else "?") + f"digest={quote(self._blob.digest, safe='')}"
        async with self._client.request(
            self._route,
            "PUT",
            url,
            ok=(201, 204),
            headers={**_OCTETS, "Content-Length": str(size)},
            data=(lambda: self._bytes(offset, self._blob.size)) if size else b"",
            length=size,
            scopes=self._scopes,
        ) as response:
            await drain(response)

    def _location(self, value: str | None) -> str:
        if not value:
            raise HttpFailure("corrupt", self._route.name, "does not say where to send the blob")
        return value

    def _report(self, offset: int) -> None:
        self._on_sent(offset - self._reported)
        self._reported = offset

    async def _bytes(self, offset: int, end: int) -> AsyncIterator[bytes]:
        self._report(offset)
        if isinstance(self._source, bytes):
            yield self._source[offset:end]
            self._report(end)
            return
        file = await asyncio.to_thread(self._source.open, "rb")
        try:
            await asyncio.to_thread(file.seek, offset)
            while offset < end:
                data = await asyncio.to_thread(file.read, min(_READ_SIZE, end - offset))
                if not data:
                    raise HttpFailure("other", str(self._source), f"ends after {offset} bytes", again=False)
                offset += len(data)
                yield data
                self._report(offset)
        finally:
            file.close()
