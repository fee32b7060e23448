"""The agent as a process of its own: started when it is needed, killed, replaced, shared, idle."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from rafs.image import Image
from tests.fakes.accounts import REPOSITORY
from tests.fakes.registry import FakeRegistry
from tests.vhostfs.agent.agent_process import (
    PATIENCE_S,
    agent_log,
    agent_pid,
    agent_process,
    is_running,
    kill_agent,
    wait_until,
)
from tests.vhostfs.agent.raw_worker import RawWorker
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.test_daemon import Guest
from vhostfs.agent.place import FOLDER, SOCKET

PIECE = 4096


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """A file of 1024 chunks of 4 KiB: each read of one is a miss of its own."""
    top = tmp_path_factory.mktemp("pieces")
    (top / "source").mkdir()
    (top / "source" / "big").write_bytes(random.Random(2).randbytes(1024 * PIECE))
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "build", top / "source"]
    command += ["--chunk-size", "4KiB", "--bootstrap", top / "boot", "--blob-dir", top / "blobs"]
    subprocess.run(command, check=True, capture_output=True)
    return BuiltImage(top / "source", top / "boot", top / "blobs")


@contextmanager
def serving(
    image: BuiltImage, where: Path, *words: str | Path, name: str = "sock"
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """`vhostfs serve` once it serves, and its socket; the cache is `where`/cache."""
    sock = where / name
    command: list[str | Path] = [sys.executable, "-m", "vhostfs", "serve", "--bootstrap", image.bootstrap]
    command += ["--cache-dir", where / "cache", "--socket", sock, *words]
    if "--config" not in words:
        command += ["--blob-dir", image.blob_dir]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "serving" in line:
                break
        else:
            raise AssertionError("".join(said))
        yield process, sock
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class ColdReader(threading.Thread):
    """Reads every piece of a file in random order, several at once.

    `done` counts them, `error` is what went wrong.
    """

    def __init__(self, guest: Guest, content: bytes, seed: int = 1, patience_s: float = 60) -> None:
        super().__init__()
        self._patience_s = patience_s
        self._guest = guest
        self._content = content
        self._order = random.Random(seed).sample(range(len(content) // PIECE), len(content) // PIECE)
        self.done = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self.error = error

    def _read(self) -> None:
        fuse = self._guest.fuse
        nodeid = fuse.walk(b"/big").nodeid
        for at in range(0, len(self._order), 8):
            asked = [(i, fuse.submit_read(nodeid, i * PIECE, PIECE)) for i in self._order[at : at + 8]]
            for piece, unique in asked:
                assert (
                    fuse.wait(unique, timeout=self._patience_s)
                    == self._content[piece * PIECE : (piece + 1) * PIECE]
                )
                self.done += 1

    def reaches(self, count: int) -> bool:
        return self.done >= count or not self.is_alive()


def read_while_agents_are_killed(image: BuiltImage, where: Path, points: int) -> int:
    """Kill the agent at `points` random points of a cold read; returns how many agents there were."""
    content = (image.source / "big").read_bytes()
    pids = set()
    with serving(image, where, "--prefetch", "none") as (_, sock), closing(Guest(str(sock))) as guest:
        reader = ColdReader(guest, content)
        reader.start()
        for point in sorted(random.Random(points).sample(range(len(content) // PIECE - 8), points)):
            wait_until(lambda: reader.reaches(point), f"piece {point}")  # noqa: B023
            pids.add(kill_agent(where / "cache"))
        reader.join()
        assert reader.error is None, agent_log(where / "cache")
        assert guest.read(b"/big") == content
    return len(pids)


def test_agents_are_killed_at_many_points_of_a_cold_read(pieces: BuiltImage, tmp_path: Path) -> None:
    """The guest sees right bytes and no error, only later."""
    assert read_while_agents_are_killed(pieces, tmp_path, 12) == 12


@pytest.mark.long
def test_agents_are_killed_at_200_points(pieces: BuiltImage, tmp_path: Path) -> None:
    for round_ in range(4):
        where = tmp_path / str(round_)
        where.mkdir()
        assert read_while_agents_are_killed(pieces, where, 50) == 50


def test_hits_go_on_without_an_agent(pieces: BuiltImage, tmp_path: Path) -> None:
    content = (pieces.source / "big").read_bytes()
    with serving(pieces, tmp_path) as (process, sock), closing(Guest(str(sock))) as guest:
        assert guest.read(b"/big") == content
        pid = agent_pid(tmp_path / "cache")
        os.kill(pid, signal.SIGSTOP)  # nobody can take its place as long as it lives
        try:
            assert guest.read(b"/big") == content
        finally:
            os.kill(pid, signal.SIGCONT)
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_it_ends_with_the_last_worker(pieces: BuiltImage, tmp_path: Path) -> None:
    with serving(pieces, tmp_path) as (first, _):
        pid = agent_pid(tmp_path / "cache")
        with serving(pieces, tmp_path, name="other") as (second, _):
            assert agent_pid(tmp_path / "cache") == pid
            first.terminate()
            assert first.wait(PATIENCE_S) == 0
            assert is_running(pid)
            second.kill()
            wait_until(lambda: not is_running(pid), "the end of the agent")
    assert not (tmp_path / "cache" / FOLDER / SOCKET).exists()


def test_workers_are_killed_at_any_point(pieces: BuiltImage, tmp_path: Path) -> None:
    """Their requests are dropped; whoever shares the agent reads on, and the cache is right."""
    content = (pieces.source / "big").read_bytes()
    words = ("--prefetch", "none")
    with serving(pieces, tmp_path, *words) as (_, sock), closing(Guest(str(sock))) as guest:
        steady = ColdReader(guest, content, seed=7)
        steady.start()
        for number, point in enumerate((5, 100, 300)):
            with serving(pieces, tmp_path, *words, name=f"victim{number}") as (victim, other):
                doomed_guest = Guest(str(other))
                doomed = ColdReader(doomed_guest, content, seed=number, patience_s=1)
                doomed.start()
                wait_until(lambda: doomed.reaches(point), "a read")  # noqa: B023
                victim.kill()
                victim.wait()
                doomed_guest.frontend.close()
            doomed.join()
            doomed_guest.memory.close()
        steady.join()
        assert steady.error is None
        assert guest.read(b"/big") == content


def test_several_that_start_at_once_become_one(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for _ in range(3):
        with ExitStack() as stack:
            processes = [
                stack.enter_context(agent_process(cache, "--idle-timeout", "0.5", "--no-sandbox", "all"))
                for _ in range(4)
            ]
            pid = agent_pid(cache)
            others = [process for process in processes if process.pid != pid]
            assert len(others) == 3
            assert [process.wait(PATIENCE_S) for process in others] == [0, 0, 0]
            with RawWorker(cache) as worker:  # the first one, and the last
                worker.greet()
            [agent] = [process for process in processes if process.pid == pid]
            assert agent.wait(PATIENCE_S) == 0
        assert not (cache / FOLDER / SOCKET).exists()


def test_a_directory_that_may_hold_no_cache(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/var")
    for cache in (tmp_path / "b", tmp_path / "a" / ".." / "b", tmp_path / "link" / "x"):
        with agent_process(cache, "--within", str(tmp_path / "a")) as process:
            assert process.wait(PATIENCE_S) == 1
            assert process.stderr and b"is not in a directory that may hold caches" in process.stderr.read()
        assert not cache.exists()


def test_socket_activation(pieces: BuiltImage, tmp_path: Path) -> None:
    """As systemd does it: the socket is there before the agent, which gets it as descriptor 3."""
    cache = tmp_path / "cache"
    (cache / FOLDER).mkdir(parents=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(cache / FOLDER / SOCKET))
    listener.listen()
    script = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        "os.execv(sys.executable, [sys.executable, '-m', 'vhostfs', 'agent', *sys.argv[2:]])"
    )
    program = [sys.executable, "-c", script, str(listener.fileno())]
    with listener, agent_process(cache, pass_fds=[listener.fileno()], program=program) as agent:
        with serving(pieces, tmp_path) as (_, sock), closing(Guest(str(sock))) as guest:
            assert agent_pid(cache) == agent.pid
            assert guest.read(b"/big") == (pieces.source / "big").read_bytes()
        agent.terminate()
        assert agent.wait(PATIENCE_S) == 0
    assert (cache / FOLDER / SOCKET).exists()  # it is systemd's


def registry_config(host: str, cache: Path) -> str:
    return json.dumps(
        {
            "version": 2,
            "backend": {"type": "registry", "registry": {"scheme": "http", "host": host, "repo": REPOSITORY}},
            "cache": {"type": "blobcache", "filecache": {"work_dir": str(cache)}},
        }
    )


def ranges_of(registry: FakeRegistry) -> list[tuple[int, int]]:
    """What was asked for of blobs, [first, end) each, sorted."""
    asked = [re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("Range", "")) for seen in registry.requests]
    return sorted((int(match[1]), int(match[2]) + 1) for match in asked if match)


async def cold_start(image: BuiltImage, where: Path, daemons: int) -> list[tuple[int, int]]:
    """Several daemons read one image at once, from a registry; the ranges that it was asked for."""
    [blob] = image.blob_dir.iterdir()
    content = (image.source / "big").read_bytes()
    async with FakeRegistry({blob.name: blob.read_bytes()}) as registry:
        (where / "config.json").write_text(registry_config(registry.host, where / "cache"))

        def daemon(number: int) -> None:
            words = ("--config", where / "config.json")
            with serving(image, where, *words, name=f"sock{number}") as (process, sock):
                with closing(Guest(str(sock))) as guest:
                    assert guest.read(b"/big") == content
                process.terminate()
                assert process.wait(PATIENCE_S) == 0

        await asyncio.gather(*(asyncio.to_thread(daemon, number) for number in range(daemons)))
        return ranges_of(registry)


def check_each_chunk_once(image: BuiltImage, ranges: list[tuple[int, int]]) -> None:
    [blob] = image.blob_dir.iterdir()
    with closing(Image(image.bootstrap)) as bootstrap:
        end_of_chunks = bootstrap.blob(0).ci_offset
    of_chunks = [(first, end) for first, end in ranges if first < end_of_chunks]
    for (_, end), (first, _) in itertools.pairwise(of_chunks):
        assert end <= first
    assert sum(end - first for first, end in ranges) <= blob.stat().st_size


async def test_four_daemons_start_cold_and_each_chunk_is_fetched_once(
    image: BuiltImage, tmp_path: Path
) -> None:
    check_each_chunk_once(image, await cold_start(image, tmp_path, 4))


@pytest.mark.long
async def test_sixteen_daemons_start_cold(image: BuiltImage, tmp_path: Path) -> None:
    check_each_chunk_once(image, await cold_start(image, tmp_path, 16))
