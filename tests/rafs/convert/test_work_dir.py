"""What the working directory remembers, for how long, and for one conversion at a time."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from rafs.convert.work_dir import KEEP_S, KEEP_SCRATCH_S, WorkDir
from rafs.errors import BuildError


async def test_a_layer_is_for_one_at_a_time(tmp_path: Path) -> None:
    one, two = WorkDir(tmp_path), WorkDir(tmp_path)
    order: list[str] = []
    has_it = asyncio.Event()

    async def first() -> None:
        async with one.layer("key") as folder:
            (folder / "record.json").write_text("{}")
            has_it.set()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5), two.layer("key"):
                    order.append("wrong")
            async with two.layer("other"):
                order.append("other")
            order.append("first")

    async def second() -> None:
        await has_it.wait()
        async with two.layer("key") as folder:
            assert (folder / "record.json").exists()
            order.append("second")

    async with asyncio.timeout(20):
        await asyncio.gather(first(), second())
    assert order == ["other", "first", "second"]


async def test_what_is_not_used_is_forgotten(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    for key in ("old", "used", "held"):
        async with work.layer(key) as folder:
            (folder / "bootstrap").touch()
        os.utime(tmp_path / "layers" / key / "lock", (0, time.time() - KEEP_S - 10))
    (tmp_path / "scratch-dead").mkdir()
    os.utime(tmp_path / "scratch-dead", (0, time.time() - KEEP_SCRATCH_S - 10))
    with work.scratch() as scratch:
        async with work.layer("used"):
            pass
        async with work.layer("held"):
            os.utime(tmp_path / "layers" / "held" / "lock", (0, 0))
            work.sweep()
        assert scratch.is_dir()
    assert sorted(path.name for path in (tmp_path / "layers").iterdir()) == ["held", "used"]
    assert [path.name for path in tmp_path.iterdir()] == ["layers"]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match=r"cannot use the working directory: .*file/work"):
        WorkDir(tmp_path / "file" / "work")
