"""The factory: each configuration becomes the back-end that it describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rafs.backend.config import Backend, LocalDisk, LocalFs, backend_of
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from rafs.errors import BackendConfigError, BlobNotFound
from tests.fakes.blobs import BLOB_ID


async def test_directories_and_their_alternatives(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / BLOB_ID).write_bytes(b"content")
    section = LocalFs(dir=str(tmp_path / "a"), alt_dirs=["", str(tmp_path / "b")])
    backend = make_backend(backend_of("localfs", section), HttpPool())
    assert await backend.read_range(BLOB_ID, 0, 7) == b"content"
    with pytest.raises(BlobNotFound, match=f"{tmp_path / 'a'} or {tmp_path / 'b'}$"):
        await backend.blob_size("cd" * 32)
    await backend.close()


async def test_one_file_and_one_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    for configuration in (
        backend_of("localfs", LocalFs(blob_file=str(tmp_path / "file"), dir=str(tmp_path))),
        backend_of("localdisk", LocalDisk(device_path=str(tmp_path / "file"), disable_gpt=True)),
    ):
        backend = make_backend(configuration, HttpPool())
        assert await backend.blob_size(BLOB_ID) == 7
        await backend.close()


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (Backend(type="localfs"), "backend.localfs is missing"),
    ],
)
def test_what_cannot_be_served_says_so(backend: Backend, reason: str) -> None:
    with pytest.raises(BackendConfigError, match=reason):
        make_backend(backend, HttpPool())
