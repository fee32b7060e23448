"""What a back-end is: the source of a blob's bytes, and the check of what it returns.

A back-end knows bytes only: no chunks, no digests, no cache. Retries, mirrors, tokens and time-outs are its
own; when it raises, it has given up. All of its errors are `BlobUnavailable` or below and name the blob and
the range. `read_exactly` is how the rest of the house calls it, so a back-end that returns too few or too
many bytes is found out in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from rafs.errors import BlobCorrupt


class BlobBackend(Protocol):
    """What a registry, an object store or a directory has to offer. Called on the event loop only."""

    async def blob_size(self, blob_id: str) -> int:
        """Return the size of the stored blob in bytes. Raises BlobUnavailable."""
        ...

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        """Return the `length` bytes at `offset` of the stored blob. Raises BlobUnavailable.

        `again`: what the last read returned does not fit the image. A back-end with several sources asks
        another one then, and no cache on the way.

        May be cancelled at any await. Several calls run at the same time; the caller bounds how many.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and threads. No call is in flight."""
        ...


@runtime_checkable
class Adjustable(Protocol):
    """A back-end that takes new settings while it is used, by the names of nydusd's /api/v1/config."""

    def set(self, settings: Mapping[str, str]) -> None:
        """From now on use these; others stay as they are. Raises BackendConfigError, and changes nothing."""
        ...


async def read_exactly(
    backend: BlobBackend, blob_id: str, offset: int, length: int, *, again: bool = False
) -> bytes:
    """`backend.read_range`, or BlobCorrupt when the answer has another length than asked for."""
    data = await backend.read_range(blob_id, offset, length, again=again)
    if len(data) != length:
        raise BlobCorrupt(
            f"blob {blob_id}: the back-end returned {len(data)} of the {length} bytes at offset {offset}"
        )
    return data
