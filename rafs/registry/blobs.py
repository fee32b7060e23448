"""The blobs of a repository: their sizes, ranges of them, and all of one in parts.

A registry may redirect a blob to object storage by a signed URL. It is followed without our credentials,
which go to the registry only, remembered for the ranges to come, and asked for again when it has expired.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from rafs.backend.body import ByteRange, check_range_answer, drain, read_body
from rafs.backend.http import HttpFailure, host_of
from rafs.backend.mirrors import Route
from rafs.errors import BlobCorrupt

if TYPE_CHECKING:
    import aiohttp

    from rafs.registry.client import RegistryClient

#: of blobs whose redirect is remembered
MAX_KNOWN_BLOBS = 1024
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
#: how a storage answers to a signed URL that has expired
_EXPIRED = (400, 401, 403, 404, 410)
#: bytes of a blob, and the size of all of it, if that was told
_Part = tuple[bytes, int | None]


@dataclass(slots=True)
class _Known:
    """Of a blob: where it was redirected to on which way, and which way gave the last bytes of it."""

    redirect: str = ""
    on: Route | None = None
    last: Route | None = None


class RegistryBlobs:
    """See the module. Made by RegistryClient; `redirect` changes the URLs that blobs are redirected to."""

    def __init__(self, client: RegistryClient, redirect: Callable[[str], str]) -> None:
        self._client = client
        self._redirect = redirect
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def forget(self) -> None:
        """The ways to the registry have changed."""
        self._known.clear()

    async def size(self, digest: str, what: str = "") -> int:
        """The size of a blob in bytes. Raises BlobUnavailable."""

        async def attempt(route: Route) -> int:
            async with self._client.request(
                route, "HEAD", f"blobs/{digest}", ok=(200, 405, 501, *REDIRECTS)
            ) as response:
                if response.status == 200 and response.content_length is not None:
                    return int(response.content_length)
            # HEAD may not be known, or not be allowed behind a redirect: the answer to a range tells the size
            _, size = await self._read(route, digest, ByteRange(0, 1), {})
            if size is None:
                raise HttpFailure("corrupt", route.name, "does not tell the size of the blob")
            return size

        return await self._client.run(what or f"blob {digest}", attempt)

    async def read(
        self, digest: str, offset: int, length: int, *, again: bool = False, what: str = ""
    ) -> bytes:
        """Return `length` > 0 bytes at `offset`. With `again` another way goes first, and no cache is asked.

        `what` names blob and range in errors. Raises BlobUnavailable.
        """
        known = self._known_of(digest)
        headers = {"Cache-Control": "no-cache"} if again else {}
        if again:
            known.redirect = ""

        async def attempt(route: Route) -> bytes:
            data, _ = await self._read(route, digest, ByteRange(offset, length), headers)
            known.last = route
            return data

        what = what or f"blob {digest}, {length} bytes at offset {offset}"
        return await self._client.run(what, attempt, avoid=known.last if again else None)

    async def stream(self, digest: str, size: int, *, part: int = 8 << 20) -> AsyncIterator[bytes]:
        """All bytes of a blob in order, in parts. Raises BlobUnavailable; at the end, for a wrong digest."""
        seen = hashlib.new(digest.partition(":")[0])
        for offset in range(0, size, part):
            data = await self.read(digest, offset, min(part, size - offset))
            seen.update(data)
            yield data
        if seen.hexdigest() != digest.partition(":")[2]:
            raise BlobCorrupt(f"blob {digest}: its bytes have the digest {seen.hexdigest()}")

    def _known_of(self, digest: str) -> _Known:
        known = self._known.setdefault(digest, _Known())
        self._known.move_to_end(digest)
        if len(self._known) > MAX_KNOWN_BLOBS:
            self._known.popitem(last=False)
        return known

    async def _read(self, route: Route, digest: str, asked: ByteRange, headers: Mapping[str, str]) -> _Part:
        """One range on one way."""
        known = self._known_of(digest)
        if known.redirect and known.on is route:
            url = known.redirect
            try:
                return await self._read_redirected(route, url, asked)
            except HttpFailure as failure:
                if failure.status not in _EXPIRED:
                    raise
                if known.redirect == url:  # else others have asked for a new one already
                    known.redirect = ""
        answer = await self._get(route, f"blobs/{digest}", asked, headers)
        if isinstance(answer, tuple):
            return answer
        try:
            result = await self._read_redirected(route, answer, asked)
        except HttpFailure as failure:
            if failure.status not in _EXPIRED:
                raise
            reason = f"refuses the URL that {route.name} has just redirected to: {failure.reason}"
            raise HttpFailure(failure.kind, failure.host, reason, status=failure.status) from None
        known.redirect, known.on = answer, route
        return result

    async def _read_redirected(self, route: Route, url: str, asked: ByteRange) -> _Part:
        for _ in range(MAX_REDIRECTS):
            answer = await self._get(route, url, asked, {})
            if isinstance(answer, tuple):
                return answer
            url = answer
        raise HttpFailure("corrupt", host_of(url), f"redirects more than {MAX_REDIRECTS} times")

    async def _get(
        self, route: Route, path: str, asked: ByteRange, headers: Mapping[str, str]
    ) -> _Part | str:
        """The part that was asked for, or the URL that it is to be asked for at."""
        ok = (200, 206, *REDIRECTS)
        ranged = {**headers, "Range": asked.header}
        async with self._client.request(
            route, "GET", path, ok=ok, headers=ranged, length=asked.length
        ) as response:
            name = route.name if path.startswith("blobs/") else host_of(path)
            if response.status in REDIRECTS:
                url = self._location(response, name)
                await drain(response)
                return url
            size = check_range_answer(response, asked, name)
            return await read_body(response, asked.length, name, self._client.options), size

    def _location(self, response: aiohttp.ClientResponse, name: str) -> str:
        """The URL that an answer redirects to, changed as the configuration wants."""
        try:
            url = self._redirect(urljoin(str(response.url), response.headers["Location"]))
            host_of(url)
        except (LookupError, ValueError):
            raise HttpFailure("corrupt", name, "redirects to what is no URL with a host") from None
        return url
