"""The unsynced marker: when it stands, when bits are distrusted, and the races between processes.

flock belongs to an open file, so two markers on one path are two processes here.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rafs.unsynced import UnsyncedMarker, is_same_file, read_boot_id


class Calls:
    """Counts calls, and says what the marker's file was like in each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.contents: list[bytes] = []

    def __call__(self) -> None:
        self.contents.append(self._path.read_bytes().strip())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "blob.data.unsynced"


@pytest.fixture
def sync(path: Path) -> Calls:
    return Calls(path)


@pytest.fixture
def distrust(path: Path) -> Calls:
    return Calls(path)


@pytest.fixture
def markers(path: Path) -> Iterator[list[UnsyncedMarker]]:
    """Three processes of this boot."""
    made = [UnsyncedMarker(path, "boot-2") for _ in range(3)]
    yield made
    for marker in made:
        marker.drop()


def crash(marker: UnsyncedMarker) -> None:
    """What the kernel does for a killed process."""
    marker.drop()


def test_the_boot_id_of_this_machine() -> None:
    assert len(read_boot_id()) == 36


def test_hold_and_release(path: Path, markers: list[UnsyncedMarker], sync: Calls, distrust: Calls) -> None:
    marker = markers[0]
    marker.join(distrust)
    assert not path.exists() and not marker.is_held
    marker.hold()
    marker.hold()
    assert path.read_bytes().strip() == b"boot-2" and marker.is_held
    assert marker.release(sync)
    assert not path.exists() and not marker.is_held
    assert sync.contents == [b"boot-2"]  # synced while the marker still stood
    assert distrust.contents == []
    assert not marker.release(sync)  # nothing left to do


def test_the_last_one_to_leave_removes_it(path: Path, markers: list[UnsyncedMarker], sync: Calls) -> None:
    one, other, third = markers
    for marker in markers:
        marker.hold()
    assert not one.release(sync)
    assert not other.release(sync)
    assert path.exists() and sync.contents == []
    assert third.release(sync)
    assert not path.exists()
    one.hold()
    assert path.exists()


def test_a_crash_leaves_it_and_the_next_one_takes_over(
    path: Path, markers: list[UnsyncedMarker], sync: Calls, distrust: Calls
) -> None:
    one, other, third = markers
    one.hold()
    crash(one)
    other.join(distrust)
    assert other.is_held and distrust.contents == []
    crash(other)
    assert third.release(sync)  # also without having joined: a close cleans up after others
    assert not path.exists() and len(sync.contents) == 1


def test_another_boot_is_distrusted_once(
    path: Path, markers: list[UnsyncedMarker], sync: Calls, distrust: Calls
) -> None:
    path.write_text("boot-1")
    one, other, _ = markers
    one.join(distrust)
    other.join(distrust)
    assert distrust.contents == [b"boot-1"]  # the old id stands until the bits are cleared
    assert path.read_bytes().strip() == b"boot-2"
    assert one.is_held and other.is_held


def test_a_crash_while_bits_are_cleared_is_done_again(path: Path, markers: list[UnsyncedMarker]) -> None:
    path.write_text("boot-1")

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        markers[0].join(die)
    crash(markers[0])
    again = Calls(path)
    markers[1].join(again)
    assert again.contents == [b"boot-1"]


def test_an_empty_marker_was_never_relied_on(
    path: Path, markers: list[UnsyncedMarker], sync: Calls, distrust: Calls
) -> None:
    path.touch()
    markers[0].join(distrust)
    assert not markers[0].is_held and distrust.contents == []
    markers[0].hold()
    assert path.read_bytes().strip() == b"boot-2"


def test_a_failed_sync_makes_the_next_start_distrust(
    path: Path, markers: list[UnsyncedMarker], sync: Calls, distrust: Calls
) -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    one, other, third = markers
    one.hold()
    with pytest.raises(OSError, match="Input/output"):
        one.release(fail)
    assert not one.is_held
    one.hold()  # goes on, and does not whitewash it
    other.join(distrust)  # nor can one take away the bits of a running process
    assert distrust.contents == []
    assert not one.release(sync) and not other.release(sync)
    assert sync.contents == []
    third.join(distrust)
    assert distrust.contents == [b"writeback-failed"]


def test_hold_waits_for_a_removal_and_starts_anew(path: Path, markers: list[UnsyncedMarker]) -> None:
    one, other, _ = markers
    one.hold()
    holder = threading.Thread(target=other.hold)

    def sync() -> None:
        holder.start()
        # until the other one is queued for the lock
        while b"-> FLOCK" not in Path("/proc/locks").read_bytes():
            pass

    assert one.release(sync)
    holder.join()
    assert other.is_held
    assert path.read_bytes().strip() == b"boot-2"
    assert not one.is_held


def test_a_removal_that_came_too_late_does_not_take_the_new_marker(
    path: Path, markers: list[UnsyncedMarker], sync: Calls
) -> None:
    one, other, _ = markers
    one.hold()
    path.unlink()  # by somebody who got the lock in the moment in which `one` let go of it to ask for more
    other.hold()
    assert not one.release(sync)
    assert path.exists() and sync.contents == []


def test_a_symlink_is_not_followed(path: Path, markers: list[UnsyncedMarker], tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        markers[0].hold()
    assert not (tmp_path / "elsewhere").exists()


def test_is_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        assert is_same_file(fd, path)
        path.unlink()
        assert not is_same_file(fd, path)
        path.touch()
        assert not is_same_file(fd, path)
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)
