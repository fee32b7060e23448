"""The power goes at any moment of filling and evicting: what is READY after the next start has its bytes.

The cache lies on ext4 in a file on a loop device. A copy of that file is what a disk has when the power goes:
what the kernel has not written yet, or only some of it, is not there. Another program flushes chunk maps
now and then, so that bits get to the disk before their data, which is the order to be afraid of.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rafs.limits import NO_LIMITS, CacheLimits
from tests.fakes.blob_store import Running, running
from tests.fakes.blobs import BLOB_ID, NONE, MemoryBackend, make_blob, make_chunks
from tests.native.host_mounts import clean_mounts

COUNT, CHUNK = 96, 32 << 10
FAKE = make_blob(make_chunks([CHUNK - 100] * COUNT), codec=NONE)
DATA = f"{BLOB_ID}.blob.data"


@contextmanager
def mounted(device: Path, point: Path) -> Iterator[Path]:
    point.mkdir()
    # metadata may be on the disk before the data that it is about
    subprocess.run(["mount", "-o", "loop,data=writeback,commit=1", device, point], check=True)
    try:
        yield point / "cache"
    finally:
        subprocess.run(["umount", point], check=True)


def flush(cache: Path, rng: random.Random) -> None:
    """The kernel writes the one or the other when it likes: names, bits, data."""
    for path, chance in ((cache / f"{DATA}.chunk_map", 0.4), (cache, 0.6), (cache / DATA, 0.1)):
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY)
            if rng.random() < chance:
                os.fsync(fd)
            os.close(fd)


async def step(run: Running, rng: random.Random) -> None:
    """Chunks come, and go if there is a limit."""
    first = rng.randrange(COUNT)
    await run.miss(first, min(rng.randint(1, 12), COUNT - first))


async def work_and_cut(run: Running, rng: random.Random, cache: Path, device: Path, copy: Path) -> None:
    """Some steps, and a copy of the disk during the last one, or after all was put on the disk."""
    for _ in range(rng.randrange(2, 8)):
        await step(run, rng)
        await asyncio.to_thread(flush, cache, rng)
    last = asyncio.create_task(step(run, rng))
    if rng.random() < 0.5:
        await last
        await run.store.settle()
    else:
        for _ in range(rng.randrange(40)):
            await asyncio.sleep(0)
    await asyncio.to_thread(flush, cache, rng)
    await asyncio.to_thread(shutil.copyfile, device, copy)
    await last


async def start_again(cache: Path, backend: MemoryBackend) -> tuple[int, int]:
    """The next boot: (chunks READY at once, chunks in doubt); each is right, then and later."""

    def wrong(run: Running) -> list[int]:
        data = (cache / DATA).read_bytes()
        return [i for i in run.ready() if data[FAKE.offsets[i] :][: CHUNK - 100] != FAKE.chunks[i]]

    async with running(cache, backend, FAKE, boot_id="boot-2") as run:
        found = len(run.ready()), run.statistics("in_doubt_chunks")[0]
        assert wrong(run) == []
        for first in range(0, COUNT, 8):
            await run.miss(first, 8)
        assert len(run.ready()) == COUNT and wrong(run) == []
    return found


async def cut_the_power(where: Path, limits: CacheLimits, cuts: int) -> list[tuple[int, int]]:
    rng = random.Random(cuts)
    device = where / "device"
    with device.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    backend = MemoryBackend({BLOB_ID: FAKE.content})
    with clean_mounts(where):
        with mounted(device, where / "fs") as cache:
            async with running(cache, backend, FAKE, boot_id="boot-1", cache_limits=limits) as run:
                for number in range(cuts):
                    await work_and_cut(run, rng, cache, device, where / f"copy-{number}")
        found = []
        for number in range(cuts):
            with mounted(where / f"copy-{number}", where / f"fs-{number}") as cache:
                found.append(await start_again(cache, backend))
            (where / f"copy-{number}").unlink()
    return found


@pytest.mark.parametrize("limits", [NO_LIMITS, CacheLimits(quota=1 << 20)])
async def test_what_is_ready_after_a_power_cut_is_right(tmp_path: Path, limits: CacheLimits) -> None:
    found = await cut_the_power(tmp_path, limits, 10)
    assert any(in_doubt for _, in_doubt in found)  # some cuts were where it mattered


@pytest.mark.long
@pytest.mark.parametrize("limits", [NO_LIMITS, CacheLimits(quota=1 << 20)])
async def test_many_power_cuts(tmp_path: Path, limits: CacheLimits) -> None:
    await cut_the_power(tmp_path, limits, 80)
