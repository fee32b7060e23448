"""Prefetching beside a running store: everything arrives once, demand goes first, it can be stopped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rafs.errors import BlobUnavailable
from rafs.fetch import FetchLimits
from rafs.prefetch import prefetcher as module
from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.plan import ChunkRun, Stage
from rafs.prefetch.prefetcher import Prefetcher
from tests.fakes.blob_store import COUNT, FAKE, data_of, running
from tests.fakes.blobs import BLOB_ID, NONE, ZSTD, FakeBlob, MemoryBackend, make_blob, make_chunks

MANY = 300
RNG = random.Random(11)
LARGE = make_blob(make_chunks([RNG.randint(1, 40_000) for _ in range(MANY)], seed=5), codec=ZSTD)


def everything(fake: FakeBlob = FAKE) -> list[Stage]:
    return [Stage("all", [ChunkRun(0, 0, len(fake.chunks))])]


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({BLOB_ID: FAKE.content})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_everything_arrives(tmp_path: Path, is_stream: bool) -> None:
    backend = MemoryBackend({BLOB_ID: LARGE.content})
    async with running(tmp_path, backend, LARGE) as run:
        await run.miss(17, 3)
        backend.reads.clear()
        options = PrefetchOptions(stream=is_stream)
        prefetcher = run.store.prefetch([run.blob], everything(LARGE), options)
        await prefetcher.wait()
        assert run.ready() == set(range(MANY))
        assert data_of(tmp_path) == LARGE.image()
        assert run.statistics("fetched_chunks", "failed_chunks") == [MANY, 0]
        statistics = prefetcher.statistics
        assert statistics.chunks == MANY - 3 and statistics.requests == len(backend.reads)
        assert statistics.read_bytes == sum(length for _, length in backend.reads)
        assert 0 < statistics.began_at <= statistics.ended_at and statistics.workers == 0
        assert not prefetcher.is_running and not run.store._prefetchers


async def test_the_order_is_kept(tmp_path: Path) -> None:
    fake = make_blob(make_chunks([60_000] * 40), codec=NONE)
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend, fake) as run:
        await run.miss(39)
        backend.reads.clear()
        wanted = [30, 2, 17, 5]
        stages = [Stage("files", [ChunkRun(0, chunk, 1) for chunk in wanted]), *everything(fake)]
        await run.store.prefetch([run.blob], stages, PrefetchOptions(workers=1)).wait()
        chunks = dict.fromkeys(offset // 60_000 for offset, _ in backend.reads)  # some came in pieces
        assert list(chunks)[: len(wanted)] == wanted


async def test_a_fill_beside_demand_reads_fetches_each_chunk_once(tmp_path: Path) -> None:
    """Right bytes, whoever asks first."""
    backend = MemoryBackend({BLOB_ID: LARGE.content})
    rng = random.Random(2)
    async with running(tmp_path, backend, LARGE, FetchLimits(work_size=20_000)) as run:
        await run.miss(0)
        prefetcher = run.store.prefetch([run.blob], everything(LARGE), PrefetchOptions(batch_size=50_000))
        while prefetcher.is_running:
            first = rng.randrange(MANY)
            await run.asked(first, rng.randint(1, min(9, MANY - first)))
            await asyncio.sleep(0)
        await run.answered()
        assert run.ready() == set(range(MANY))
        assert data_of(tmp_path) == LARGE.image()
        assert run.statistics("fetched_chunks", "failed_chunks") == [MANY, 0]


async def test_demand_is_served_while_prefetch_hangs(tmp_path: Path) -> None:
    """What prefetch has not claimed is not held up by it; nor is anything once it is there."""
    fake = make_blob(make_chunks([60_000] * 100), codec=NONE)
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend, fake) as run:
        await run.miss(99)
        backend.gate = gate = asyncio.Event()
        prefetcher = run.store.prefetch([run.blob], everything(fake), PrefetchOptions())
        await until(lambda: backend.waiting >= 2)
        claimed = backend.waiting
        backend.gate = None
        await run.asked(60, 30)
        await until(lambda: set(range(60, 90)) <= run.ready())
        assert prefetcher.is_running and backend.waiting == claimed < 20
        gate.set()
        await prefetcher.wait()
        assert run.ready() == set(range(100))


async def test_cancelled_it_asks_for_no_more_and_lets_arrive_what_is_coming(tmp_path: Path) -> None:
    fake = make_blob(make_chunks([60_000] * 100), codec=NONE)
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend, fake) as run:
        await run.miss(99)
        before = len(backend.reads)
        backend.gate = asyncio.Event()
        prefetcher = run.store.prefetch([run.blob], everything(fake), PrefetchOptions())
        await until(lambda: backend.waiting >= 2)
        prefetcher.cancel()
        await asyncio.sleep(0)
        coming = len(backend.reads) - before
        backend.gate.set()
        await prefetcher.wait()
        assert len(backend.reads) - before == coming and len(run.ready()) == 1 + coming
        assert run.statistics("failed_chunks") == [0]


async def test_a_store_that_stops_does_not_wait_for_it(tmp_path: Path) -> None:
    backend = MemoryBackend({BLOB_ID: LARGE.content})
    async with running(tmp_path, backend, LARGE) as run:
        await run.miss(0)
        backend.gate = asyncio.Event()  # for ever
        prefetcher = run.store.prefetch([run.blob], everything(LARGE), PrefetchOptions())
        await until(lambda: backend.waiting >= 2)
        await run.store.stop()
        assert not prefetcher.is_running and not run.blob.tasks


async def test_a_back_end_that_fails_is_not_asked_for_ever(
    tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable(*_: object) -> bytes:
        raise BlobUnavailable(f"blob {BLOB_ID}: connection refused")

    monkeypatch.setattr(module, "FAILURE_PAUSE_S", 0.0)
    fake = make_blob(make_chunks([60_000] * 100), codec=NONE)
    backend = MemoryBackend({BLOB_ID: fake.content})
    async with running(tmp_path, backend, fake) as run:
        await run.miss(0)
        before = len(backend.reads)
        backend.answer = unavailable
        prefetcher = run.store.prefetch([run.blob], everything(fake), PrefetchOptions())
        await prefetcher.wait()
        assert len(backend.reads) - before < 20
        assert prefetcher.statistics.stopped_by.startswith("5 requests in a row failed: ")
        assert "prefetch stopped: 5 requests in a row failed" in caplog.text
        backend.answer = None
        await run.miss(0, 100)
        assert run.ready() == set(range(100))


async def test_a_bad_chunk_does_not_stop_it(
    tmp_path: Path, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAILURE_PAUSE_S", 0.0)
    async with running(tmp_path, backend) as run:
        await run.miss(0)
        bad = run.blob.meta.chunk(6)
        backend.answer = lambda at, length, data: (
            data if at + length <= bad.compressed_offset else bytes(length)
        )
        prefetcher = run.store.prefetch([run.blob], everything(), PrefetchOptions(batch_size=1, workers=1))
        await prefetcher.wait()
        assert run.ready() == set(range(COUNT)) - {6, 7}
        assert prefetcher.statistics.failed_requests == 2


async def test_bandwidth_is_bounded(tmp_path: Path) -> None:
    """Never below a chunk a second (contract 5.5), and by waiting, not by failing."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    fake = make_blob(make_chunks([60_000] * 20), codec=NONE, chunk_size=1 << 20)
    async with running(tmp_path, MemoryBackend({BLOB_ID: fake.content}), fake) as run:
        options = PrefetchOptions(bandwidth_limit=1, workers=1)
        fetcher = run.store._fetcher
        prefetcher = Prefetcher(
            fetcher, [run.blob], everything(fake), options, clock=lambda: now, sleep=sleep
        )
        prefetcher.start(lambda: None)
        await prefetcher.wait()
        assert len(run.ready()) == 20
    assert now == pytest.approx(20 * 60_000 / (1 << 20) - 0.1, abs=0.1)


async def test_a_trace_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And left when what it had fetched is not what is read."""
    fake = make_blob(make_chunks([30_000] * MANY), codec=NONE)
    backend = MemoryBackend({BLOB_ID: fake.content})
    order = list(range(MANY))
    random.Random(6).shuffle(order)
    trace = Stage("trace", [ChunkRun(0, chunk, 1) for chunk in order], is_learned=True)
    async with running(tmp_path, backend, fake) as run:
        await run.miss(order[0])
        read = set[int]()
        monkeypatch.setattr(run.blob.native, "visited_count", lambda: len(read))
        monkeypatch.setattr(run.blob.native, "is_visited", read.__contains__)
        prefetcher = run.store.prefetch([run.blob], [trace], PrefetchOptions(workers=1))
        await until(lambda: len(run.ready()) > 100)
        read |= set(order[:100])
        await until(lambda: prefetcher.statistics.useful > 60)
        assert prefetcher.is_running
        read |= set(range(1000, 1200))
        await prefetcher.wait()
        assert prefetcher.statistics.stopped_by.startswith("only ")
        assert prefetcher.statistics.judged > prefetcher.statistics.useful > 60
        assert 100 < len(run.ready()) < MANY
        places = {chunk: place for place, chunk in enumerate(order)}
        read_at = [offset for offset, _ in backend.reads if offset < MANY * 30_000]
        assert max(places[offset // 30_000] for offset in read_at[:60]) < 120  # within a window
