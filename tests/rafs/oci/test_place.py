"""What names mean, and fetching that broke off."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rafs.backend.http import HttpOptions, HttpPool
from rafs.errors import BlobCorrupt, BuildError
from rafs.oci.descriptor import Descriptor
from rafs.oci.place import Place, open_place
from rafs.registry.push import Pushed
from tests.fakes.quick import no_docker_config, short_pauses
from tests.fakes.served_registry import registry_served

__all__ = ["no_docker_config", "short_pauses"]

CONTENT = os.urandom((20 << 20) + 5)
BLOB = Descriptor.of(CONTENT, "application/octet-stream")


def ignore(size: int) -> None:
    pass


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Place]:
    pool = HttpPool()
    place = open_place(name, pool, options=HttpOptions(connect_timeout_s=5, timeout_s=20))
    try:
        yield place
    finally:
        place.close()
        await pool.close()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("oci:images/web:1", "oci:images/web:1"),
        ("oci:images/web", "oci:images/web"),
        ("/images/web:1", "oci:/images/web:1"),
        ("./web", "oci:web"),
        ("../images:5000/web", "oci:../images:5000/web"),
        ("here:tag", "oci:here:tag"),
        ("docker://here:tag", "docker.io/library/here:tag"),
        ("there:tag", "docker.io/library/there:tag"),
        ("registry.example:5000/web", "registry.example:5000/web:latest"),
        ("docker://registry.example/a@sha256:" + "0" * 64, "registry.example/a@sha256:" + "0" * 64),
    ],
)
async def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shown: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    async with opened(name) as place:
        assert str(place) == shown


async def test_fetching_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    folder.mkdir()
    part, whole = folder / f"{BLOB.hex}.part", folder / BLOB.hex
    with registry_served(tmp_path / "registry") as host:
        async with opened(f"{host}/web:1") as place:
            assert await place.put_blob(BLOB, CONTENT, ignore) is Pushed.SENT
            for stored in (CONTENT[: 9 << 20], b""):
                part.write_bytes(stored)
                reported: list[int] = []
                assert await place.fetch(BLOB, folder, reported.append) == whole
                assert whole.read_bytes() == CONTENT and not part.exists()
                assert (reported[0], sum(reported)) == (len(stored), len(CONTENT))
                whole.unlink()
            # what is there is not what it was: the next time begins anew
            part.write_bytes(CONTENT[:100] + b"x")
            with pytest.raises(BlobCorrupt, match="try again"):
                await place.fetch(BLOB, folder, ignore)
            assert not part.exists()
            assert await place.fetch(BLOB, folder, ignore) == whole
    # and once it is there it is not fetched again
    async with opened("127.0.0.1:1/web:1") as nowhere:
        assert await nowhere.fetch(BLOB, folder, ignore) == whole


async def test_a_digest_is_no_name_to_write_to(tmp_path: Path) -> None:
    async with opened(f"127.0.0.1:1/web@{BLOB.digest}") as place:
        with pytest.raises(BuildError, match="names a digest; name a tag to write to"):
            await place.put_manifest(BLOB, b"{}", is_named=True)


async def test_a_layout_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with opened(f"oci:{tmp_path}/file/layout:t") as place:
        with pytest.raises(BuildError, match=r"oci:.*/file/layout:t: .*Not a directory"):
            await place.put_blob(BLOB, CONTENT, ignore)
