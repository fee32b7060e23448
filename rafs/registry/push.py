"""Pushing to a repository: blobs, as little of them as possible, and manifests.

A blob that the repository has is not sent; one that another repository of the registry has is mounted, where
the registry allows it. Small ones go in one request, large ones in parts: when a part fails, the registry is
asked how far it came, and sending goes on from there, or from the beginning if it does not know.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlencode

from rafs.backend.body import drain
from rafs.backend.http import HttpFailure
from rafs.backend.mirrors import Route
from rafs.oci.descriptor import Descriptor
from rafs.registry.client import RegistryClient
from rafs.registry.upload import Upload

#: a blob up to this size is sent in one request, a larger one in parts of it
PART_SIZE = 64 << 20


class Pushed(enum.Enum):
    """How a blob came to the repository."""

    THERE = "was there"
    MOUNTED = "mounted"
    SENT = "sent"


def _no_report(size: int) -> None:
    pass


async def _stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


class Pusher:
    """Writes to the repository of a client, which should have no mirrors. Used on its event loop."""

    def __init__(self, client: RegistryClient, *, part_size: int = PART_SIZE) -> None:
        self.client = client
        self._part_size = part_size
        self._scopes = (f"repository:{client.repository}:pull,push",)

    async def push_blob(
        self,
        blob: Descriptor,
        source: Path | bytes,
        *,
        mount_from: Sequence[str] = (),
        on_sent: Callable[[int], None] = _no_report,
    ) -> Pushed:
        """Make sure that the repository has `blob`; `source` has its bytes.

        `mount_from` are repositories of the same registry that may have it. `on_sent` gets numbers of bytes
        as they leave, negative ones when they must be sent again. Raises BlobUnavailable.
        """
        what = self._for(f"blob {blob.digest}")
        if await self.client.has_blob(blob.digest):
            return Pushed.THERE
        if await self.mount_blob(blob, mount_from):
            return Pushed.MOUNTED

        async def attempt(route: Route) -> None:
            upload = Upload(
                self.client,
                self._scopes,
                route,
                blob,
                source,
                part_size=self._part_size,
                on_sent=on_sent,
            )
            await upload.run()

        await self.client.run(what, attempt)
        return Pushed.SENT

    async def mount_blob(self, blob: Descriptor, mount_from: Sequence[str]) -> bool:
        """Whether the registry could take the blob over from one of these repositories."""
        what = self._for(f"blob {blob.digest}")
        for name in dict.fromkeys(mount_from):
            if name != self.client.repository and await self._mount(what, blob.digest, name):
                return True
        return False

    async def push_bytes(self, content: bytes, media_type: str, **more: object) -> Descriptor:
        """Push `content` as a blob; return its descriptor. Raises BlobUnavailable."""
        blob = Descriptor.of(content, media_type, **more)
        await self.push_blob(blob, content)
        return blob

    async def push_manifest(self, content: bytes, media_type: str, target: str | None = None) -> str | None:
        """Push a manifest or an index with a tag or, by default, its digest only.

        Return the digest of the subject that the registry has linked it to; None when there is none, or it
        does not know referrers (see `referrers.py`). Raises BlobUnavailable.
        """
        target = target or Descriptor.of(content, media_type).digest
        path = f"manifests/{quote(target, safe=':')}"
        headers = {"Content-Type": media_type, "Content-Length": str(len(content))}

        async def attempt(route: Route) -> str | None:
            async with self.client.request(
                route,
                "PUT",
                path,
                ok=(200, 201, 202),
                headers=headers,
                data=lambda: _stream(content),
                length=len(content),
                scopes=self._scopes,
            ) as response:
                await drain(response)
                subject: str | None = response.headers.get("OCI-Subject")
                return subject

        return await self.client.run(self._for(f"manifest {target}"), attempt)

    async def delete_manifest(self, target: str) -> None:
        """Delete a manifest, or a tag. Raises BlobUnavailable; BlobNotFound when it is not there."""
        path = f"manifests/{quote(target, safe=':')}"
        scopes = (f"repository:{self.client.repository}:delete",)

        async def attempt(route: Route) -> None:
            async with self.client.request(route, "DELETE", path, ok=(200, 202), scopes=scopes) as response:
                await drain(response)

        await self.client.run(self._for(f"manifest {target}"), attempt)

    def _for(self, what: str) -> str:
        return f"{what} for {self.client.host}/{self.client.repository}"

    async def _mount(self, what: str, digest: str, name: str) -> bool:
        """Whether the registry has taken the blob over from repository `name`."""
        query = urlencode({"mount": digest, "from": name})
        scopes = (*self._scopes, f"repository:{name}:pull")

        async def attempt(route: Route) -> bool:
            try:
                async with self.client.request(
                    route, "POST", f"blobs/uploads/?{query}", ok=(201, 202), scopes=scopes
                ) as response:
                    await drain(response)
                    location = response.headers.get("Location", "")
                    if response.status == 201:
                        return True
            except HttpFailure as failure:
                if failure.again:
                    raise
                return False  # not for us to read, or no repository
            if location:  # it has begun an upload instead, which nobody will go on with
                with suppress(HttpFailure):
                    async with self.client.request(
                        route, "DELETE", location, ok=(200, 202, 204), scopes=self._scopes
                    ) as response:
                        await drain(response)
            return False

        return await self.client.run(what, attempt)
