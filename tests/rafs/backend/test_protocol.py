"""The check of what any back-end returns."""

from __future__ import annotations

import pytest

from rafs.backend import read_exactly
from rafs.errors import BlobCorrupt
from tests.fakes.blobs import BLOB_ID, MemoryBackend

CONTENT = bytes(range(256))


@pytest.mark.parametrize("answer", [b"", b"123", b"12345"])
async def test_an_answer_of_another_length_is_the_back_ends_fault(answer: bytes) -> None:
    backend = MemoryBackend({BLOB_ID: CONTENT}, answer=lambda *_: answer)
    with pytest.raises(BlobCorrupt, match=f"{BLOB_ID}: .* {len(answer)} of the 4 bytes at offset 9"):
        await read_exactly(backend, BLOB_ID, 9, 4)
