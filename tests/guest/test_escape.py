"""A guest that tries to leave the shared directory, as root, with what its kernel lets it do.

Beside the share lies a folder that nothing may reach: after each attack it has to be as it was, and nothing
of it may have been read. Requests that no Linux driver sends: tests/native/test_passthrough_escape.py.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest.nydusd import run_on_share
from tests.guest.programs import static_program
from tests.guest.vm import Guest, Result
from tests.trees import describe, differences

SECRET = "secret-of-the-host"
#: of each race; with some forty calls a turn
TURNS = 150
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_EXCHANGE = -100, 2


@pytest.fixture(scope="module")
def escape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return static_program(Path(__file__).parent / "escape.c", tmp_path_factory.mktemp("escape"))


class Places:
    """The share, and what is outside."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.share, self.outside = top / "share", top / "outside"
        (self.outside / "outside-folder").mkdir(parents=True)
        (self.outside / "outside-secret").write_text(SECRET)
        (self.outside / "outside-mark").touch()
        (self.share / "folder/outside-folder").mkdir(parents=True)
        (self.share / "folder/outside-secret").write_text("inside")
        (self.share / "deep/er/est").mkdir(parents=True)
        self._before = describe(self.outside)

    def check(self) -> None:
        """Nothing has changed outside, and nothing was made beside the share."""
        assert differences(self._before, describe(self.outside)) == []
        assert sorted(path.name for path in self.top.iterdir()) == ["outside", "share"]

    def run(self, guest: Guest, escape: Path, script: str) -> Result:
        work = self.top.with_name(self.top.name + "-work")
        work.mkdir()
        result = run_on_share(guest, self.share, script, work, files={"/bin/escape": escape})
        self.check()
        assert SECRET not in result.stdout.decode() + result.stderr.decode()
        return result.check()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "host")


def test_parents(guest: Guest, places: Places, escape: Path) -> None:
    """The way up ends at the guest's own directories, by every spelling, and with no dentry remembered."""
    script = """
    for way in .. ../.. deep/../.. deep/er/est/../../../.. ./..//./.. deep/er/../er/../../../../outside; do
        ls -a $SHARE/$way 2>&1
        cd $SHARE/deep/er/est && ls -a ../../../$way 2>&1
        echo 2 >/proc/sys/vm/drop_caches
        ls -a ../../../$way 2>&1
        cat $SHARE/$way/outside/outside-secret $way/outside-secret 2>/dev/null && exit 1
        echo guest 2>/dev/null >$SHARE/$way/outside/outside-secret
        mkdir -p $SHARE/$way/outside/made $SHARE/$way/made
    done
    exit 0
    """
    names = {word for line in places.run(guest, escape, script).lines for word in line.split()}
    assert "containers" in names
    assert "outside-mark" not in names


def test_symlinks(guest: Guest, places: Places, escape: Path) -> None:
    """What a symlink leads to is the guest's to find, whoever made it: nothing of the host's is there."""
    targets = [
        "/etc",
        str(places.outside),
        "../outside",
        "../../outside",
        str(places.top),
        "/",
        "/proc/self/root",
    ]
    for number, target in enumerate(targets):
        (places.share / f"host-{number}").symlink_to(target)
    (places.share / "passwd").symlink_to("/etc/passwd")
    script = f"""
    cd $SHARE
    cat passwd
    set -- {" ".join(targets)}
    for target in $@; do ln -s $target guest-$((number++)); done
    for link in host-* guest-*; do
        cat $link/outside-secret $link{places.outside}/outside-secret 2>/dev/null && exit 1
        ls $link/ | grep outside- && exit 1
        echo guest 2>/dev/null >$link/outside-secret
        ( mkdir $link/outside-folder/made; rm -r $link/outside-folder ) 2>/dev/null
        chmod 777 $link/outside-secret 2>/dev/null
        ln $link/outside-secret linked 2>/dev/null
        mv $link/outside-secret moved 2>/dev/null
    done
    exit 0
    """
    lines = places.run(guest, escape, script).lines
    assert lines[0] == "root:x:0:0:root:/root:/bin/sh"  # the guest's own, as the harness made it
    assert (places.share / "guest-0").readlink() == Path("/etc")


def test_magic_links_of_proc(guest: Guest, places: Places, escape: Path) -> None:
    """They are of the guest's processes; those of the daemon are not to be had."""
    magic = [
        "/proc/self/root",
        "/proc/self/cwd",
        "/proc/1/root",
        "/proc/1/cwd",
        "/proc/self/fd",
        "/proc/thread-self/root",
    ]
    for number, target in enumerate(magic):
        (places.share / f"magic-{number}").symlink_to(target)
    script = f"""
    cd $SHARE
    exec 5<deep
    ln -s /proc/self/fd/5 fifth
    for link in magic-* fifth; do
        for way in {places.outside} ../outside ../../outside; do
            cat $link/$way/outside-secret && exit 1
        done
        ls -d $link{places.top} && exit 1
        for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            ls $link/$number/ | grep outside && exit 1
        done
    done 2>/dev/null
    ls fifth/
    """
    assert places.run(guest, escape, script).lines == ["er"]


def test_a_folder_that_changes_places_with_a_symlink(guest: Guest, places: Places, escape: Path) -> None:
    """In the guest: between any two steps of the daemon's, a name may mean something else."""
    for name, target in {"relative": "../outside", "absolute": str(places.outside)}.items():
        (places.share / name).symlink_to(target)
    script = f"cd $SHARE && for link in relative absolute; do escape race folder $link {TURNS} swap; done"
    check_race(places.run(guest, escape, script))


def test_a_folder_that_the_host_makes_change_places(guest: Guest, places: Places, escape: Path) -> None:
    """On the host: a container of another guest, or who shares the directory, may do it as well."""
    link = places.share / "link"
    link.symlink_to(places.outside)
    with exchanging(places.share / "folder", link):
        result = places.run(guest, escape, f"cd $SHARE && escape race folder link {TURNS}")
    check_race(result)


def check_race(result: Result) -> None:
    """Calls got through and calls came too late; what was read was what the guest itself may have written."""
    for line in result.lines:
        _, succeeded, _, failed, _, *texts = line.split()
        assert int(succeeded) >= 10 and int(failed) >= 10
        assert set(texts) <= {"inside", "guest", "i", "g", "outside-secret", "outside-folder"}


@contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """The two change places, over and over, until the block ends."""
    done = threading.Event()
    turns = 0

    def exchange() -> None:
        nonlocal turns
        while not done.is_set():
            turns += LIBC.renameat2(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE) == 0

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert turns > 1000


def test_file_handles(guest: Guest, places: Places, escape: Path) -> None:
    """A handle that was not given out opens nothing, or something that the guest has already."""
    script = "cd $SHARE && ls -R . >/dev/null && for of in . deep ..; do escape handles $of 3000; done"
    lines = places.run(guest, escape, script).lines
    assert len(lines) == 3
    for line in lines:
        known, _, texts = line.partition(" saw")
        assert known.startswith("known opened forged ")
        assert all(text.startswith("/mnt") for text in texts.split()), line


def test_devices_are_the_guests(guest: Guest, places: Places, escape: Path) -> None:
    """A device node stands for a device of the guest, which has none of the host's disks."""
    disk = places.top.stat().st_dev
    script = f"""
    cd $SHARE
    mknod disk b {os.major(disk)} {os.minor(disk)} && mknod memory c 1 1 && mknod null c 1 3 && mkfifo pipe
    dd if=disk bs=512 count=1 2>/dev/null && exit 1
    echo guest >null && cat null
    (echo through >pipe &) ; cat pipe
    """
    assert places.run(guest, escape, script).lines == ["through"]
