"""`vhostfs cache`: what it prints, what it changes, its exit status."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rafs.cache_dir import CacheDir
from tests.fakes.blob_store import FAKE
from tests.fakes.blobs import BLOB_ID
from tests.rafs.test_scrub import spoil
from tests.rafs.test_verify import filled, record_of
from tests.vhostfs.agent_here import agent_here, no_start
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.test_daemon import serving
from vhostfs.__main__ import main
from vhostfs.daemon import Daemon

OTHER_ID = "cd" * 32


def answer(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> Any:
    assert main(["cache", *map(str, words), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def told(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> str:
    assert main(["cache", *map(str, words)]) == status
    return capsys.readouterr().out


def leftover(directory: Path, age_h: float = 0.0) -> None:
    """A blob that nobody uses, of one block, last used some hours ago."""
    path = directory / f"{OTHER_ID}.blob.data"
    path.write_bytes(bytes(4096))
    os.utime(path, (time.time() - age_h * 3600,) * 2)


def test_ls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leftover(filled(tmp_path), age_h=50)
    with contextlib.closing(CacheDir(tmp_path).open(record_of(FAKE))):
        one, other = answer(capsys, "ls", tmp_path)
        text = told(capsys, "ls", tmp_path)
    assert (one["blob_id"], one["chunks"], one["ready_chunks"], one["in_use"]) == (BLOB_ID, 8, 8, True)
    assert (other["blob_id"], other["chunks"], other["disk_bytes"]) == (OTHER_ID, None, 4096)
    assert not other["in_use"] and not other["unsynced"]
    assert BLOB_ID[:12] in text and "8/8" in text and "in use" in text


def test_du(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    usage = answer(capsys, "du", tmp_path)
    assert usage["bytes"] == sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir())
    assert sum(usage["by_kind"].values()) == usage["bytes"] and usage["since"] == {}
    (tmp_path / "vhostfs.ledger.json").write_text('{"evicted_bytes": 3145728, "healed_chunks": 1}')
    text = told(capsys, "du", tmp_path)
    assert "chunk maps" in text and "3.0 MiB" in text and "healed chunks" in text


def test_gc_takes_what_nobody_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leftover(filled(tmp_path), age_h=50)
    with contextlib.closing(CacheDir(tmp_path).open(record_of(FAKE))):
        assert "1 of 2 blobs would be removed, 4.0 KiB" in told(capsys, "gc", tmp_path, "--dry-run")
        assert answer(capsys, "gc", tmp_path)["removed"] == [{"blob_id": OTHER_ID, "bytes": 4096}]
        assert told(capsys, "gc", tmp_path).startswith("0 of 1 blobs removed, 0 B;")
        assert (tmp_path / f"{BLOB_ID}.blob.data").exists()
    assert "1 of 1 blobs removed" in told(capsys, "gc", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vhostfs.lock"]


def test_gc_in_moderation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leftover(filled(tmp_path), age_h=50)
    assert answer(capsys, "gc", tmp_path, "--older-than", "51")["removed"] == []
    assert answer(capsys, "gc", tmp_path, "--down-to", "1GiB")["removed"] == []
    [gone] = answer(capsys, "gc", tmp_path, "--down-to", "1MiB", "--older-than", "49")["removed"]
    assert gone["blob_id"] == OTHER_ID


async def test_gc_while_a_daemon_runs(
    image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(image.options(tmp_path)) as daemon:
        leftover(tmp_path / "cache")
        [gone] = answer(capsys, "gc", tmp_path / "cache")["removed"]
        assert gone["blob_id"] == OTHER_ID
        [blob] = answer(capsys, "ls", tmp_path / "cache")
        assert blob["in_use"] and (await daemon.statistics())["fetch_open_blobs"] == 1


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leftover(filled(tmp_path))
    text = told(capsys, "verify", tmp_path)
    assert "none" in text and "it has no blob.meta here" in text
    spoil(tmp_path, 2, 6)
    [one, _] = answer(capsys, "verify", tmp_path, status=1)
    assert one["corrupt"] == [2, 6] and one["checked"] == 8
    text = told(capsys, "verify", tmp_path, status=1)
    assert "2, 6" in text and "--repair" in text
    assert "are fetched again" in told(capsys, "verify", tmp_path, "--repair", status=1)
    [one, _] = answer(capsys, "verify", tmp_path)
    assert (one["ready"], one["checked"]) == (6, 6)


async def test_verify_against_an_image_and_repair_under_a_daemon(
    image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    async with agent_here(cache) as agent, Daemon(image.options(tmp_path), no_start):
        [blob] = agent.store._blobs.values()
        await agent.store.fill(blob)
        [report] = answer(capsys, "verify", cache, "--bootstrap", image.bootstrap)
        assert report["checked"] == report["chunks"] > 17 and report["corrupt"] == []
        with blob.cache.data_path.open("r+b") as file:
            file.write(b"no such bytes")
        answer(capsys, "verify", cache, "--bootstrap", image.bootstrap, status=1)
        assert main(["cache", "verify", str(cache), "--repair"]) == 2
        assert "in use by another process" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ls", "du", "gc", "verify"])
def test_a_directory_that_is_not_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", command, "/nonexistent"]) == 2
    reason = "cannot look into the cache directory /nonexistent: No such file or directory"
    assert capsys.readouterr().err == f"vhostfs cache {command}: {reason}\n"
