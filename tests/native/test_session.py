"""A real mount on /dev/fuse, served by the C dispatcher (native/c/fusedev*.c)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from native.dataplane import FuseSession, SessionTerms, adopt_session, session_terms
from tests.native.conftest import BIG_CHUNK
from tests.native.rig import DEADLINE_S, BuiltImage, Fetcher, Rig, is_readable, until
from tests.trees import describe, differences
from vhostfs.fuse_mount import FuseMountError, MountOptions, clones, open_session, umount

OPTIONS = MountOptions(allow_other=True, flags=0)


@contextmanager
def mounted(rig: Rig, where: Path, *, channels: int = 3, share_fd: bool = False) -> Iterator[FuseSession]:
    """The rig's device at `where`, until the block ends."""
    where.mkdir(exist_ok=True)
    fds = clones(open_session(where, OPTIONS), 1 if share_fd else channels)
    session = FuseSession(rig.device, fds, channels=channels)
    try:
        session.start()
        yield session
    finally:
        umount(where, lazy=True)
        session.close()


@pytest.mark.parametrize("share_fd", [False, True])
def test_the_tree_is_the_source(nasty: BuiltImage, tmp_path: Path, share_fd: bool) -> None:
    where = tmp_path / "mnt"
    with Rig(nasty, num_request_queues=0) as rig, mounted(rig, where, share_fd=share_fd) as session:
        assert differences(describe(nasty.source), describe(where)) == []
        statistics = session.statistics()
        assert statistics["requests"] > 1000 and statistics["misses"] == 0


def test_reads_that_miss_wait_and_hits_go_by(plain: BuiltImage, big: bytes, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    with Rig(plain, warm=False, num_request_queues=0) as rig, mounted(rig, where, channels=1) as session:
        rig.cache.fill(0, 3)
        found: list[bytes] = []
        fd = os.open(where / "big", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        reader = threading.Thread(target=lambda: found.append(os.pread(fd, 100, 20 * BIG_CHUNK + 5)))
        assert session.in_flight() == []
        reader.start()
        assert rig.wait_upcalls()[0][1] == 20
        until(lambda: len(session.in_flight()) == 1)
        assert (session.in_flight()[0].nodeid, session.in_flight()[0].opcode) == (
            (where / "big").stat().st_ino,
            15,
        )
        assert os.pread(fd, 4096, 0) == big[:4096]  # the only channel is free
        rig.cache.fill(20, 1)
        reader.join(DEADLINE_S)
        assert found == [big[20 * BIG_CHUNK + 5 :][:100]]
        os.close(fd)
        assert session.statistics()["misses"] == 1


def test_cold_whole_file_from_many_readers(plain: BuiltImage, big: bytes, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    with Rig(plain, warm=False, num_request_queues=0) as rig, Fetcher(rig) as fetcher, mounted(rig, where):
        readers = [subprocess.Popen(["sha256sum", where / "big"], stdout=subprocess.PIPE) for _ in range(4)]
        sums = {reader.communicate(timeout=DEADLINE_S)[0] for reader in readers}
        assert len(sums) == 1
        assert (where / "big").read_bytes() == big
    chunks = fetcher.chunks()
    assert chunks == sorted(set(chunks))


def test_a_signal_ends_the_wait_for_a_chunk(plain: BuiltImage, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    code = "import os, sys; os.pread(os.open(sys.argv[1], os.O_RDONLY), 10, 0)"
    with Rig(plain, warm=False, num_request_queues=0) as rig, mounted(rig, where, channels=1):
        reader = subprocess.Popen([sys.executable, "-c", code, where / "big"])
        rig.wait_upcalls()
        reader.send_signal(signal.SIGKILL)
        assert reader.wait(DEADLINE_S) == -signal.SIGKILL
        rig.cache.fill()


def test_a_failed_chunk_is_eio(plain: BuiltImage, big: bytes, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    with Rig(plain, warm=False, num_request_queues=0) as rig, mounted(rig, where):
        errors: list[int | None] = []

        def read() -> None:
            try:
                (where / "big").read_bytes()
            except OSError as error:
                errors.append(error.errno)

        reader = threading.Thread(target=read)
        reader.start()
        while not errors:
            if is_readable(rig.store.event_fd, 0.01):
                for _, first, count in rig.store.take():
                    rig.cache.blob.fail(first, count)
        reader.join()
        assert errors == [errno.EIO]
        rig.cache.fill()
        assert (where / "big").read_bytes() == big


def test_an_unmount_is_told(plain: BuiltImage, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    with Rig(plain, num_request_queues=0) as rig:
        session = FuseSession(rig.device, [open_session(where, OPTIONS)], channels=2)
        session.start()
        assert (where / "dir/a").read_text() == "this is a\n"
        assert not is_readable(session.ended_fd, 0)
        umount(where)
        assert is_readable(session.ended_fd, DEADLINE_S)
        session.close()
        with pytest.raises(FuseMountError, match="nothing is mounted"):
            umount(where)


def test_a_successor_takes_the_session_over(plain: BuiltImage, big: bytes, tmp_path: Path) -> None:
    """What the first read and did not answer is asked again; files that are open stay so."""
    where = tmp_path / "mnt"
    where.mkdir()
    fd = open_session(where, OPTIONS)
    parked = os.dup(fd)
    found: list[bytes] = []
    with Rig(plain, warm=False, num_request_queues=0) as rig:
        rig.cache.fill(0, 1)
        first = FuseSession(rig.device, [fd], channels=2)
        first.start()
        file = os.open(where / "big", os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        directory = os.open(where / "dir", os.O_RDONLY)
        assert os.pread(file, 10, 0) == big[:10]
        reader = threading.Thread(target=lambda: found.append(os.pread(file, 10, 30 * BIG_CHUNK)))
        reader.start()
        rig.wait_upcalls()
        until(lambda: first.statistics()["misses"] == 1)
        terms = session_terms(rig.device)
        assert terms is not None and terms.minor >= 31
        first.stop(abandon=True)
        first.close()
    with Rig(plain, num_request_queues=0) as rig:
        adopt_session(rig.device, terms)
        second = FuseSession(rig.device, [parked], channels=2)
        second.start()
        second.resend()
        reader.join(DEADLINE_S)
        assert found == [big[30 * BIG_CHUNK :][:10]]
        assert os.pread(file, 10, 40 * BIG_CHUNK) == big[40 * BIG_CHUNK :][:10]
        with os.scandir(directory) as entries:
            assert sorted(entry.name for entry in entries) == ["a", "b", "c"]
        os.close(file)
        os.close(directory)
        umount(where)
        second.close()


def test_terms_of_another_kind_are_refused(plain: BuiltImage) -> None:
    with Rig(plain, num_request_queues=0) as rig:
        assert session_terms(rig.device) is None
        with pytest.raises(OSError) as caught:
            adopt_session(rig.device, SessionTerms(minor=99, flags=0))
        assert caught.value.errno == errno.EPROTO


def kept() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))


def test_many_sessions_leave_nothing(plain: BuiltImage, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    with Rig(plain, num_request_queues=0) as rig:
        with mounted(rig, where):
            pass
        before = kept()
        for _ in range(200):
            with mounted(rig, where):
                assert (where / "dir/b").stat().st_size == 10
        assert kept() == before
