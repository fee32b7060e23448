"""The background check: what the disk lost is found and fetched again, and nothing else is touched."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from rafs import scrub as scrub_module
from rafs.errors import BlobUnavailable
from rafs.limits import NO_LIMITS, CacheLimits
from rafs.open_blob import OpenBlob
from rafs.scrub import Scrubber
from tests.fakes.blob_store import COUNT, FAKE, SIZES, Running, data_of, running
from tests.fakes.blobs import BLOB_ID, MemoryBackend, make_blob, make_chunks


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: FAKE.content})


def scrubber_of(run: Running, rate: int = 1 << 40) -> Scrubber:
    return Scrubber(run.governor, lambda blob, chunk: run.store.fill(blob, chunk, 1), rate=rate)


def spoil(directory: Path, *indices: int) -> None:
    """The disk forgets one bit of chunks."""
    with (directory / f"{BLOB_ID}.blob.data").open("r+b", buffering=0) as file:
        for index in indices:
            at = FAKE.offsets[index] + SIZES[index] // 2
            (byte,) = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte ^ 4]), at)
        os.fsync(file.fileno())


@pytest.mark.parametrize("limits", [NO_LIMITS, CacheLimits(quota=1 << 30)])
async def test_what_is_corrupt_is_fetched_again(
    tmp_path: Path, backend: MemoryBackend, limits: CacheLimits, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, backend, cache_limits=limits) as run:
        await run.store.fill(run.blob)
        spoil(tmp_path, 3, 6)
        assert data_of(tmp_path) != FAKE.image()
        fetched = run.statistics("fetched_chunks")[0]
        await scrubber_of(run).check(run.blob)
        assert data_of(tmp_path) == FAKE.image() and run.ready() == set(range(COUNT))
        assert run.statistics("corrupt_chunks", "healed_chunks") == [2, 2]
        assert run.statistics("fetched_chunks")[0] == fetched + 2
        assert run.statistics("scrubbed_bytes") == [sum(SIZES)]
        errors = [r.getMessage().split(" in ")[0] for r in caplog.records if r.levelno == logging.ERROR]
        assert errors == [f"blob {BLOB_ID} chunk {i}: corrupt" for i in (3, 6)]
        await scrubber_of(run).check(run.blob)
        assert run.statistics("corrupt_chunks") == [2]


async def test_while_it_cannot_be_fetched_nobody_reads_it(
    tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, backend) as run:
        await run.store.fill(run.blob)
        spoil(tmp_path, 2)

        def unavailable(*_: object) -> bytes:
            raise BlobUnavailable("no network")

        backend.answer = unavailable
        await scrubber_of(run).check(run.blob)
        assert run.ready() == set(range(COUNT)) - {2}
        assert run.statistics("corrupt_chunks", "healed_chunks") == [1, 0]
        backend.answer = None
        await run.miss(2)
        assert data_of(tmp_path) == FAKE.image()


async def test_what_is_evicted_meanwhile_is_not_corrupt(
    tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, backend, cache_limits=CacheLimits(quota=1 << 30)) as run:
        await run.store.fill(run.blob)
        real = scrub_module._has_digest

        def evicting(*arguments: object) -> bool:
            run.governor.make_room(1 << 30)
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(scrub_module, "_has_digest", evicting)
        await scrubber_of(run).check(run.blob)
        assert run.ready() == set() and run.statistics("corrupt_chunks") == [0]


async def test_without_digests_nothing_is_checked(tmp_path: Path) -> None:
    fake = make_blob(make_chunks(SIZES), toc=False)
    async with running(tmp_path, MemoryBackend({BLOB_ID: fake.content}), fake) as run:
        await run.store.fill(run.blob)
        await scrubber_of(run).check(run.blob)
        assert run.statistics("scrubbed_bytes") == [0]


async def test_it_takes_its_time_and_then_comes_again(
    tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)
        if seconds == scrub_module.PAUSE_S and slept.count(seconds) == 2:
            raise KeyError  # enough

    async with running(tmp_path, backend) as run:
        await run.store.fill(run.blob)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        with pytest.raises(KeyError):
            await scrubber_of(run, rate=1000).run(lambda: [run.blob])
        monkeypatch.undo()
    turn = [size / 1000 for size in SIZES]
    assert slept == [scrub_module.DELAY_S, *turn, scrub_module.PAUSE_S, *turn, scrub_module.PAUSE_S]


async def test_a_blob_may_be_closed_at_any_moment(
    tmp_path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    for steps in range(0, 60, 3):
        async with running(tmp_path, backend) as run:
            await run.store.fill(run.blob)
            spoil(tmp_path, 1, 5)

            async def fetch(blob: OpenBlob, chunk: int, run: Running = run) -> None:
                await run.store.fill(blob, chunk, 1)

            checking = asyncio.create_task(Scrubber(run.governor, fetch, rate=1 << 40).check(run.blob))
            for _ in range(steps):
                await asyncio.sleep(0)
        await checking
    assert not [r for r in caplog.records if r.exc_info]
