"""A whole image of 10 MiB by `vhostfs serve --config` in its sandbox, from each kind of back-end.

Registries have tests of their own: test_remote_images.py.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.fakes.fault_proxy import (
    Fault,
    FaultProxy,
    FlippedBit,
    Reset,
    Short,
    Status,
    Truncated,
    WebPage,
    WholeBody,
    WrongRange,
)
from tests.fakes.gpt_disk import MIB, NewPartition, make_disk, partitions_of, write_at
from tests.fakes.object_stores import FakeAzure, FakeGcs
from tests.fakes.registries import nginx_at
from tests.fakes.s3_server import S3Server, s3_server, section_of
from tests.vhostfs.test_cli_serve import PATIENCE_S
from tests.vhostfs.test_daemon import Guest

SIZE = 10 * MIB
FILES = 8


@dataclass(frozen=True)
class TenMib:
    """`content` is that of the files f0, f1, ... one behind the other."""

    content: bytes
    bootstrap: Path
    blob: Path

    @property
    def objects(self) -> dict[str, bytes]:
        return {self.blob.name: self.blob.read_bytes()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> TenMib:
    top = tmp_path_factory.mktemp("ten")
    (top / "source").mkdir()
    content = random.Random(11).randbytes(SIZE)
    for number in range(FILES):
        part = content[number * SIZE // FILES : (number + 1) * SIZE // FILES]
        (top / "source" / f"f{number}").write_bytes(part)
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "build", top / "source"]
    command += ["--bootstrap", top / "boot", "--blob-dir", top / "blobs"]
    subprocess.run(command, check=True, capture_output=True)
    (blob,) = (top / "blobs").iterdir()
    return TenMib(content, top / "boot", blob)


@pytest.fixture(scope="module")
def s3(image: TenMib) -> Iterator[S3Server]:
    with s3_server({"bucket": {f"images/{name}": blob for name, blob in image.objects.items()}}) as server:
        yield server


@asynccontextmanager
async def serving(image: TenMib, where: Path, kind: str, section: dict[str, Any]) -> AsyncIterator[Guest]:
    """A guest of a daemon with that back-end and an empty cache."""
    cache = {"type": "blobcache", "filecache": {"work_dir": str(where / "cache")}}
    backend = {"type": kind, kind: section}
    (where / "config").write_text(json.dumps({"version": 2, "backend": backend, "cache": cache}))
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--bootstrap", image.bootstrap]
    command += ["--config", where / "config", "--socket", where / "sock"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b"serving" not in said:
                line = await process.stderr.readline()
                assert line, said
                said += line
        reading = asyncio.create_task(process.stderr.read())
        guest = await asyncio.to_thread(Guest, str(where / "sock"))
        try:
            yield guest
        finally:
            await asyncio.to_thread(guest.close)
            process.terminate()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(process.wait(), reading)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def check(image: TenMib, where: Path, kind: str, section: dict[str, Any]) -> None:
    """Every file is read, and is right."""
    where.mkdir(exist_ok=True)
    async with serving(image, where, kind, section) as guest:
        for number in range(FILES):
            part = image.content[number * SIZE // FILES : (number + 1) * SIZE // FILES]
            assert await asyncio.to_thread(guest.read, b"/f%d" % number) == part


async def test_localfs(image: TenMib, tmp_path: Path) -> None:
    await check(image, tmp_path, "localfs", {"dir": "/nonexistent", "alt_dirs": [str(image.blob.parent)]})


async def test_localdisk(image: TenMib, tmp_path: Path) -> None:
    content, name = image.blob.read_bytes(), image.blob.name
    disk = tmp_path / "disk"
    size = (len(content) + 511) // 512 * 512
    make_disk(disk, [NewPartition(name[:32], UUID(name[32:]), size)])
    write_at(disk, partitions_of(disk)[0]["start"] * 512, content)
    await check(image, tmp_path, "localdisk", {"device_path": str(disk)})
    whole = {"device_path": str(image.blob), "disable_gpt": True}
    await check(image, tmp_path / "whole", "localdisk", whole)


async def test_s3(image: TenMib, tmp_path: Path, s3: S3Server) -> None:
    section = section_of(s3, object_prefix="images/")
    await check(image, tmp_path, "s3", section)
    # an address cannot have a bucket before it: OSS is asked as others are
    await check(image, tmp_path / "oss", "oss", section)


async def test_gcs(image: TenMib, tmp_path: Path) -> None:
    async with FakeGcs({f"bucket/{name}": content for name, content in image.objects.items()}) as server:
        (tmp_path / "key.json").write_text(server.service_account())
        section = {"bucket_name": "bucket", "endpoint": server.url}
        await check(image, tmp_path, "gcs", {**section, "service_account_file": str(tmp_path / "key.json")})


async def test_azure(image: TenMib, tmp_path: Path) -> None:
    async with FakeAzure({f"blobs/{name}": content for name, content in image.objects.items()}) as server:
        section = {"account_name": server.ACCOUNT, "container_name": "blobs", "endpoint": server.url}
        await check(image, tmp_path, "azure", {**section, "account_key": server.KEY})


async def test_plain_http(image: TenMib, tmp_path: Path) -> None:
    with nginx_at(image.blob.parent, tmp_path / "nginx") as nginx:
        for name, address in (("tcp", nginx.url), ("unix", str(nginx.socket))):
            await check(image, tmp_path / name, "http-proxy", {"addr": address, "path": "/"})


async def test_s3_while_answers_are_spoiled(image: TenMib, tmp_path: Path, s3: S3Server) -> None:
    faults: list[Fault] = [
        Status(429),
        Status(503),
        Reset(),
        Truncated(),
        Short(),
        FlippedBit(),
        WholeBody(),
        WebPage(),
        WrongRange(),
    ]
    seen = 0

    def plan(request: object, answer: object) -> Fault | None:
        nonlocal seen
        seen += 1
        return faults[seen // 2 % len(faults)] if seen % 2 else None

    async with FaultProxy(f"http://{s3.host}") as proxy:
        proxy.plan = plan
        section = section_of(s3, object_prefix="images/", endpoint=proxy.host, timeout=1)
        await check(image, tmp_path, "s3", section)
        assert set(proxy.counters) == {"answers", *(type(fault).__name__ for fault in faults)}
