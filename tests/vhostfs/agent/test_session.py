"""A worker that breaks things beside one that does not: the first is hung up on, the other one reads on."""

from __future__ import annotations

import asyncio
import os
import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.plan import ChunkRun, Stage
from tests.vhostfs.agent.raw_worker import HEAD, TAIL, RawWorker
from tests.vhostfs.agent_here import agent_here, no_start
from tests.vhostfs.conftest import BuiltImage, GatedBackend
from tests.vhostfs.test_daemon import Guest, guest_of, until
from vhostfs.agent import session
from vhostfs.agent.bootstrap import pack_plan
from vhostfs.agent.protocol import (
    VERSION,
    Adjust,
    AskFigures,
    CloseBlob,
    Done,
    Figures,
    Hello,
    Message,
    Opened,
    Prefetch,
    Refused,
    StopPrefetch,
)
from vhostfs.agent.server import Agent
from vhostfs.daemon import Daemon


class Rig:
    """An agent, a daemon that reads by it, and others that connect."""

    def __init__(self, agent: Agent, daemon: Daemon, guest: Guest, image: BuiltImage) -> None:
        self.agent = agent
        self.daemon = daemon
        self._guest = guest
        self._image = image

    def worker(self) -> RawWorker:
        return RawWorker(self.daemon.options.cache_dir)

    async def reads_all(self) -> None:
        """What the good one does, whatever the bad one has done."""
        expected = (self._image.source / "big").read_bytes()
        assert await asyncio.to_thread(self._guest.read, b"/big") == expected


@asynccontextmanager
async def rig(image: BuiltImage, where: Path, backend: GatedBackend | None = None) -> AsyncIterator[Rig]:
    options = image.options(where)
    async with (
        agent_here(options.cache_dir, backend) as agent,
        Daemon(options, no_start) as daemon,
        guest_of(daemon) as guest,
    ):
        yield Rig(agent, daemon, guest, image)


async def test_what_comes_before_hello(image: BuiltImage, tmp_path: Path) -> None:
    async with rig(image, tmp_path) as r:
        for message in (CloseBlob(1, 1), AskFigures(1, [], 0)):
            with r.worker() as worker:
                await asyncio.to_thread(worker.say, message)
                assert await asyncio.to_thread(worker.is_hung_up_on)
        await r.reads_all()


async def test_another_version(image: BuiltImage, tmp_path: Path) -> None:
    async with rig(image, tmp_path) as r:
        with r.worker() as worker:
            reply = await asyncio.to_thread(worker.ask, Hello(VERSION + 1), worker.rings.fds)
            assert isinstance(reply, Refused) and reply.call == 0 and "restart" in reply.reason


@pytest.mark.parametrize(
    "said",
    [
        b"x",
        bytes(1000),
        random.Random(1).randbytes(100_000),
        CloseBlob(1, 99),
        Adjust(1, [99], {}),
        AskFigures(1, [99], 0),
        StopPrefetch(1, 99),
        Hello(VERSION),
    ],
    ids=lambda said: said[:3].hex() if isinstance(said, bytes) else type(said).__name__,
)
async def test_what_makes_no_sense(image: BuiltImage, tmp_path: Path, said: bytes | Message) -> None:
    async with rig(image, tmp_path) as r:
        with r.worker() as worker:
            await asyncio.to_thread(worker.greet)
            if isinstance(said, bytes):
                await asyncio.to_thread(worker.send, said)
            else:
                await asyncio.to_thread(worker.say, said, worker.rings.fds if isinstance(said, Hello) else ())
            assert await asyncio.to_thread(worker.is_hung_up_on)
        await r.reads_all()


async def test_descriptors_that_are_no_rings(image: BuiltImage, tmp_path: Path) -> None:
    async with rig(image, tmp_path) as r:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (no need for paths)
        for fds in ((0, 1, 2), (0, 0, 0)):
            with r.worker() as worker:
                await asyncio.to_thread(worker.say, Hello(VERSION), fds)
                assert await asyncio.to_thread(worker.is_hung_up_on)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208


RingSpoiler = Callable[[RawWorker], None]
SPOILERS: dict[str, RingSpoiler] = {
    "a chunk that is not": lambda w: w.push((1, 1 << 20, 1)),
    "a run past the end": lambda w: w.push((1, 30, 100)),
    "a run that wraps": lambda w: w.push((1, 0xFFFF_FFFF, 2)),
    "a run of everything": lambda w: w.push((1, 0, 0xFFFF_FFFF)),
    "a run of nothing": lambda w: w.push((1, 0, 0)),
    "more than there can be": lambda w: w.push(tail=5000),
    "a tail that went back": lambda w: w.push(tail=0xFFFF_FFFF),
    "garbage": lambda w: w.push(*[(1, *struct.unpack("<2I", os.urandom(8))) for _ in range(100)]),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
async def test_a_ring_with_lies(image: BuiltImage, tmp_path: Path, spoil: RingSpoiler) -> None:
    async with rig(image, tmp_path) as r:
        with r.worker() as worker:
            await asyncio.to_thread(worker.greet)
            assert isinstance(await asyncio.to_thread(worker.open, image), Opened)
            spoil(worker)
            assert await asyncio.to_thread(worker.is_hung_up_on)
        await r.reads_all()


async def test_chunks_of_blobs_that_it_has_not_open(image: BuiltImage, tmp_path: Path) -> None:
    """It may have closed them: they are let go."""
    async with rig(image, tmp_path) as r:
        with r.worker() as worker:
            await asyncio.to_thread(worker.greet)
            worker.push((5, 0, 1), (6, 1 << 30, 1000))
            assert isinstance(await asyncio.to_thread(worker.open, image), Opened)
            assert isinstance(await asyncio.to_thread(worker.ask, CloseBlob(9, 1)), Done)


async def test_a_flood_of_what_is_there_already(image: BuiltImage, tmp_path: Path) -> None:
    """It costs the agent a part of its time and no more, and the others are served meanwhile."""
    async with rig(image, tmp_path) as r:
        await r.reads_all()
        with r.worker() as worker:
            await asyncio.to_thread(worker.greet)
            assert isinstance(await asyncio.to_thread(worker.open, image), Opened)
            ended = asyncio.Event()

            async def flood() -> None:
                while not ended.is_set():
                    worker.push(*[(1, 0, 1)] * 256)
                    await asyncio.sleep(0)

            flooding = asyncio.create_task(flood())
            try:
                with r.worker() as other:
                    await asyncio.to_thread(other.greet)
                    assert isinstance(await asyncio.to_thread(other.open, image), Opened)
                await r.reads_all()
            finally:
                ended.set()
                await flooding


async def test_a_worker_that_does_not_read_its_completions(image: BuiltImage, tmp_path: Path) -> None:
    """No more is taken from it than has room there; it hurts nobody, and goes on when it reads."""
    async with rig(image, tmp_path) as r:
        with r.worker() as worker:
            await asyncio.to_thread(worker.greet)
            assert isinstance(await asyncio.to_thread(worker.open, image), Opened)
            struct.pack_into("<I", worker.completions, HEAD, 1)  # one more than was ever written
            worker.push(*[(1, chunk, 1) for chunk in range(20)])
            await r.reads_all()
            assert struct.unpack_from("<I", worker.completions, TAIL) == (0,)
            struct.pack_into("<I", worker.completions, HEAD, 0)
            await until(lambda: struct.unpack_from("<I", worker.completions, TAIL)[0] > 0)


async def test_too_much_at_once(image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_BLOBS", 3)
    async with rig(image, tmp_path) as r:
        with r.worker() as worker:
            await asyncio.to_thread(worker.greet)
            for handle in (1, 2, 3):
                assert isinstance(await asyncio.to_thread(worker.open, image, handle), Opened)
            with pytest.raises(EOFError):
                await asyncio.to_thread(worker.open, image, 4)
        await r.reads_all()


async def test_a_prefetch_of_what_is_not_there(image: BuiltImage, tmp_path: Path) -> None:
    async with rig(image, tmp_path) as r:
        for handles, plan in (([1], b"\x91\x92\xa1x\x91\x93\x00\xce\x00\xff\xff\xff\x01"), ([1], b"garbage")):
            with r.worker() as worker:
                await asyncio.to_thread(worker.greet)
                assert isinstance(await asyncio.to_thread(worker.open, image), Opened)
                fd = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
                os.write(fd, plan)
                reply = await asyncio.to_thread(worker.ask, Prefetch(7, 8, handles, PrefetchOptions()), [fd])
                os.close(fd)
                assert isinstance(reply, Refused) and "sealed" in reply.reason
        await r.reads_all()


async def test_one_that_goes_away_leaves_nothing(image: BuiltImage, tmp_path: Path) -> None:
    """Even with chunks on their way; and what the other one waits for arrives."""
    backend = GatedBackend(image.blob_dir)
    async with rig(image, tmp_path, backend) as r:
        reading = asyncio.create_task(r.reads_all())
        await until(lambda: backend.waiting > 0)
        for _ in range(5):
            with r.worker() as worker:
                await asyncio.to_thread(worker.greet)
                assert isinstance(await asyncio.to_thread(worker.open, image), Opened)
                worker.push((1, 0, 17))
                reply = await asyncio.to_thread(worker.ask, AskFigures(3, [1], 0))
                assert isinstance(reply, Figures)
        backend.gate.set()
        await reading
        assert r.agent.store.statistics()["fetched_chunks"] == 17
        await until(lambda: r.agent.store.statistics()["open_blobs"] == 1)


async def test_a_blob_is_closed_while_it_is_prefetched(
    image: BuiltImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a mount is given up in the middle: the prefetch ends with it, and quietly."""
    backend = GatedBackend(image.blob_dir)
    async with agent_here(tmp_path / "cache", backend):
        with RawWorker(tmp_path / "cache") as worker:
            await asyncio.to_thread(worker.greet)
            assert isinstance(await asyncio.to_thread(worker.open, image), Opened)
            fd = pack_plan([Stage("all", [ChunkRun(0, 0, 17)])])
            prefetch = Prefetch(7, 8, [1], PrefetchOptions())
            assert isinstance(await asyncio.to_thread(worker.ask, prefetch, [fd]), Done)
            os.close(fd)
            await until(lambda: backend.waiting > 0)
            assert isinstance(await asyncio.to_thread(worker.ask, CloseBlob(9, 1)), Done)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
