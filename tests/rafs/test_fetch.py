"""Fetcher: misses become READY chunks or errors, whatever back-end, disk and neighbours do."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from native.dataplane import BLOB_RECORD
from rafs.chunk_state import MergeLimits
from rafs.errors import BlobCorrupt, BlobUnavailable
from rafs.fetch import FetchLimits
from tests.fakes.blob_store import COUNT, FAKE, ONE_BY_ONE, SIZES, data_of, marker, running
from tests.fakes.blobs import (
    BLAKE3,
    BLOB_ID,
    GZIP,
    LZ4,
    NONE,
    SHA256,
    ZSTD,
    MemoryBackend,
    make_blob,
    make_chunks,
)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: FAKE.content})


# fetching


@pytest.mark.parametrize("codec", [NONE, LZ4, GZIP, ZSTD])
@pytest.mark.parametrize("digester", [BLAKE3, SHA256])
@pytest.mark.parametrize("v2", [False, True])
async def test_all_chunks_arrive(tmp_path: Path, codec: int, digester: int, v2: bool) -> None:
    fake = make_blob(make_chunks(SIZES), codec=codec, digester=digester, v2=v2)
    async with running(tmp_path, MemoryBackend({BLOB_ID: fake.content}), fake) as run:
        await run.miss(0, COUNT)
        assert run.ready() == set(range(COUNT))
        assert data_of(tmp_path) == fake.image()
        assert run.statistics("fetched_chunks", "verified_chunks", "unverified_chunks") == [COUNT, COUNT, 0]
        assert run.statistics("requests_in_flight", "requests_waiting", "bytes_in_flight") == [0, 0, 0]
    assert not marker(tmp_path).exists()


async def test_neighbours_come_in_one_request_and_once(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend) as run:
        await run.miss(0)  # loads the digests too
        backend.reads.clear()
        backend.gate = asyncio.Event()
        await run.asked(1, 3)
        await run.asked(2, 4)  # 2 and 3 are PENDING already
        backend.gate.set()
        await run.answered()
        assert run.ready() == set(range(6))
        assert len(backend.reads) == 2
        assert run.statistics("fetched_chunks") == [6]
        await run.miss(0, 6)
        assert len(backend.reads) == 2


async def test_requests_keep_to_the_limits(tmp_path: Path) -> None:
    fake = make_blob(make_chunks([20_000] * 64, seed=3), codec=NONE)
    backend = MemoryBackend({BLOB_ID: fake.content})
    limits = FetchLimits(merge=MergeLimits(max_request=50_000), max_requests=3, max_bytes=250_000)
    async with running(tmp_path, backend, fake, limits) as run:
        await run.miss(63)
        backend.reads.clear()
        backend.gate = asyncio.Event()
        await run.asked(0, 63)
        for _ in range(20):
            await asyncio.sleep(0)
        while backend.waiting < 3:
            await asyncio.sleep(0)
        assert backend.waiting == 3
        assert run.statistics("requests_in_flight")[0] == 3
        assert run.statistics("bytes_in_flight")[0] <= 250_000
        backend.gate.set()
        await run.answered()
        assert backend.max_waiting == 3
        assert len(backend.reads) == 32 and max(length for _, length in backend.reads) == 40_000
        assert data_of(tmp_path) == fake.image()


async def test_random_misses_from_many_readers(tmp_path: Path) -> None:
    rng = random.Random(8)
    fake = make_blob(make_chunks([rng.randint(1, 30_000) for _ in range(200)]), codec=ZSTD, gap=100)
    backend = MemoryBackend({BLOB_ID: fake.content})
    limits = FetchLimits(merge=MergeLimits(max_request=60_000, max_gap=150), work_size=20_000)
    async with running(tmp_path, backend, fake, limits) as run:
        while len(run.ready()) < 200:
            first = rng.randrange(200)
            await run.asked(first, rng.randint(1, min(20, 200 - first)))
        await run.answered()
        assert run.statistics("fetched_chunks", "failed_chunks") == [200, 0]
        assert data_of(tmp_path) == fake.image()


async def test_chunks_that_another_process_completed_are_not_fetched(
    tmp_path: Path, backend: MemoryBackend
) -> None:
    async with running(tmp_path, backend) as one, running(tmp_path, backend) as other:
        await one.miss(0)
        await other.asked(0)  # READY by the shared map: no upcall at all
        assert not other.blob.tasks
        runs = other.blob.native.claim(1, 4)
        assert runs == [(1, 4)]
        await one.miss(1, 4)
        other.upcalls.ask(other.blob.native, runs)
        while not other.blob.tasks:
            await asyncio.sleep(0)
        await other.answered()
        assert other.statistics("reused_chunks", "requests") == [4, 0]


async def test_chunks_completed_elsewhere_while_a_request_waits_are_left_out_of_it(
    tmp_path: Path, backend: MemoryBackend
) -> None:
    slow = MemoryBackend({BLOB_ID: FAKE.content})
    one_at_a_time = FetchLimits(max_requests=1)
    async with running(tmp_path, backend) as one, running(tmp_path, slow, limits=one_at_a_time) as other:
        await other.miss(0)
        slow.gate = asyncio.Event()
        await other.asked(1)
        await other.asked(2, 6)
        while not other.statistics("requests_waiting")[0]:
            await asyncio.sleep(0)
        await one.miss(2, 3)
        slow.gate.set()
        await other.answered()
        assert other.statistics("reused_chunks", "fetched_chunks") == [3, 5]
        first, last = other.blob.meta.chunk(5), other.blob.meta.chunk(7)
        assert slow.reads[-1] == (first.compressed_offset, last.compressed_end - first.compressed_offset)
        assert other.ready() == one.ready() == set(range(COUNT))
    assert data_of(tmp_path) == FAKE.image()


async def test_fill_fetches_everything_that_is_absent(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend) as run:
        await run.miss(3)
        await run.store.fill(run.blob)
        assert run.ready() == set(range(COUNT))
        assert run.statistics("fetched_chunks") == [COUNT]
        backend.answer = lambda *_: b""
        await run.store.fill(run.blob)
    assert data_of(tmp_path) == FAKE.image()


async def test_fill_claims_a_part_at_a_time(tmp_path: Path) -> None:
    fake = make_blob(make_chunks([4000] * 100))
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend, fake, FetchLimits(fill_size=10 * 4096)) as run:
        await run.miss(0)
        backend.gate = asyncio.Event()
        filling = asyncio.create_task(run.store.fill(run.blob))
        while backend.waiting < 2:
            await asyncio.sleep(0)
        assert run.upcalls.miss(run.blob.native, 0, 100) == [(20, 80)]  # a guest's read wins the rest
        backend.gate.set()
        await filling
        while len(run.ready()) < 100:
            await run.answered()
            await asyncio.sleep(0)
        assert run.statistics("fetched_chunks") == [100]
        assert data_of(tmp_path) == fake.image()


async def test_fill_reports_the_first_error(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend) as run:
        await run.miss(0)
        backend.answer = lambda offset, length, data: data[:-1]
        with pytest.raises(BlobCorrupt, match="returned"):
            await run.store.fill(run.blob, 2, 2)
        assert run.ready() == {0}


# failing


def unavailable(*_: object) -> bytes:
    raise BlobUnavailable(f"blob {BLOB_ID}: connection refused")


@pytest.mark.parametrize(
    "answer, reason",
    [
        (unavailable, "connection refused"),
        (lambda offset, length, data: data[:-1], "back-end returned"),
        (lambda offset, length, data: data + b"x", "back-end returned"),
        (lambda offset, length, data: b"<html>".ljust(length), "lz4"),
        (lambda offset, length, data: bytes(length), "lz4"),
    ],
)
async def test_a_bad_answer_fails_the_chunk_in_one_line_and_the_next_read_tries_again(
    tmp_path: Path, backend: MemoryBackend, answer: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, backend, limits=ONE_BY_ONE) as run:
        await run.miss(0)
        backend.answer = answer
        await run.miss(3)
        assert run.ready() == {0}
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith(f"blob {BLOB_ID} chunk 3: ") and reason in line
        assert line.count(BLOB_ID) == 1
        assert run.statistics("failed_chunks") == [1]
        backend.answer = None
        await run.miss(3)
        assert run.ready() == {0, 3}


@pytest.mark.parametrize("codec", [NONE, ZSTD])
async def test_a_wrong_digest_never_becomes_ready(
    tmp_path: Path, codec: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Chunks 2 and 4 carry other data of the same size that decodes well; their neighbours are served."""
    chunks = make_chunks(SIZES)
    fake = make_blob(chunks, codec=codec)
    lies = [bytes([byte ^ 1 for byte in c]) if i in (2, 4) else c for i, c in enumerate(chunks)]
    other = make_blob(lies, codec=codec)
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend, fake) as run:
        await run.miss(0)
        backend.blobs[BLOB_ID] = other.content
        await run.miss(1, 5)
        assert run.ready() == {0, 1, 3, 5}
        assert [r.getMessage()[:77] for r in caplog.records] == [f"blob {BLOB_ID} chunk {i}" for i in (2, 4)]
        assert "blake3 is" in caplog.text
        start, end = fake.offsets[2], fake.offsets[3]
        assert data_of(tmp_path)[start:end] == bytes(end - start)  # not even in the file


async def test_wrong_bytes_are_asked_for_once_more(
    tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, backend) as run:
        await run.miss(0)
        backend.answer = lambda offset, length, data: data if backend.again else data[:-1] + b"x"
        await run.miss(1, 3)
        assert run.ready() == {0, 1, 2, 3}
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith(f"blob {BLOB_ID} chunk 3: came right the second time, first: ")
        assert len(backend.again) == 1 and backend.again[0][1] < backend.reads[-2][1]  # not the whole request
        assert run.statistics("reread_chunks", "failed_chunks", "fetched_chunks") == [1, 0, 4]


async def test_a_bad_record_fails_alone(
    tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    meta = bytearray(FAKE.meta_file)
    meta[16 * 4 + 8 : 16 * 4 + 13] = b"\xff" * 5  # chunk 4 is stored at 1 TiB
    (tmp_path / f"{BLOB_ID}.blob.meta").write_bytes(meta)
    # an image of a builder that made no TOC
    entry = BLOB_RECORD.parse(FAKE.entry)._replace(features=0x40000001, toc_size=0, toc_digest=bytes(32))
    async with running(tmp_path, backend, entry=entry) as run:
        await run.miss(2, 5)
        assert run.ready() == {2, 3, 5, 6}
        assert f"blob {BLOB_ID} chunk 4: chunk 4 is stored outside" in caplog.text


async def test_a_bug_fails_the_chunks_too(
    tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: object) -> bytes:
        raise ZeroDivisionError

    async with running(tmp_path, backend) as run:
        await run.miss(0)
        backend.answer = bug
        await run.miss(1, 2)
        assert run.blob.native.claim(1, 2) == [(1, 2)]  # ABSENT again
        assert "ZeroDivisionError" in caplog.text


# without digests


async def test_without_digests_it_is_said_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = make_blob(make_chunks(SIZES), toc=False)
    async with running(tmp_path, MemoryBackend({BLOB_ID: fake.content}), fake) as run:
        await run.miss(0, 3)
        await run.miss(3, 2)
        assert run.statistics("verified_chunks", "unverified_chunks") == [0, 5]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line == f"blob {BLOB_ID}: the image carries no chunk digests; its data is not verified"


async def test_digests_of_the_bootstrap_are_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake = make_blob(make_chunks(SIZES), toc=False)
    digests = {index: digest if index != 2 else bytes(32) for index, digest in enumerate(fake.digests)}
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend, fake, digests=digests.get) as run:
        await run.miss(0, COUNT)
        assert run.ready() == set(range(COUNT)) - {2}
        assert run.statistics("verified_chunks", "unverified_chunks") == [COUNT - 1, 0]


# unclean stops


async def test_power_loss(tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture) -> None:
    """Killed, then the machine goes down: the bits were on disk, of the data only some."""
    async with running(tmp_path, backend) as run:
        await run.miss(0, COUNT)
        # the process is killed here: what it leaves is what lies in the directory now
        image = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert marker(tmp_path).name in image
    after = tmp_path / "after"
    after.mkdir()
    data = bytearray(image[f"{BLOB_ID}.blob.data"])
    for index in (1, 3):
        data[FAKE.offsets[index] : FAKE.offsets[index] + SIZES[index]] = bytes(SIZES[index])
    image[f"{BLOB_ID}.blob.data"] = bytes(data)
    for name, content in image.items():
        (after / name).write_bytes(content)
    backend.reads.clear()
    async with running(after, backend, boot_id="boot-2") as run:
        assert run.ready() == set()
        assert run.statistics("in_doubt_chunks") == [COUNT]
        assert f"{COUNT} chunks are verified again" in caplog.text
        await run.miss(0)
        assert run.ready() == {0}
        await run.miss(1, COUNT - 1)
        assert run.ready() == set(range(COUNT))
        assert run.statistics("salvaged_chunks", "fetched_chunks", "requests") == [COUNT - 2, 2, 1]
        assert len(backend.reads) == 1
    assert data_of(after) == FAKE.image()
    assert not marker(after).exists()


async def test_power_loss_without_digests_fetches_again(tmp_path: Path) -> None:
    fake = make_blob(make_chunks(SIZES), toc=False)
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend, fake) as run:
        await run.miss(0, COUNT)
        marker(tmp_path).write_text("boot-0")
        run.blob.cache._marker.drop()
    async with running(tmp_path, backend, fake, boot_id="boot-2") as run:
        await run.miss(0, COUNT)
        assert run.statistics("in_doubt_chunks", "salvaged_chunks", "fetched_chunks") == [COUNT, 0, COUNT]


async def test_a_lost_map_costs_no_bytes(tmp_path: Path, backend: MemoryBackend) -> None:
    async with running(tmp_path, backend) as run:
        await run.miss(0, COUNT)
    (tmp_path / f"{BLOB_ID}.blob.data.chunk_map").unlink()
    async with running(tmp_path, backend) as run:
        await run.store.fill(run.blob)
        assert run.statistics("salvaged_chunks", "requests") == [COUNT, 0]
    async with running(tmp_path, backend) as run:
        assert run.ready() == set(range(COUNT))
