"""A guest does what a Kata guest does: overlayfs of an image below and a snapshot of the host above."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import kata
from tests.guest.backend import Image
from tests.guest.kata import Runtime, Sandbox
from tests.guest.kernel import Kernel
from tests.guest.nydusd import Nydusd
from tests.guest.programs import program
from tests.guest.steps import SteppedGuest
from tests.guest.vm import Guest

#: cap_net_raw, permitted and effective, as the kernel keeps it (linux/capability.h)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

START = r"""
set -e
share=/run/kata-containers/shared
mkdir -p $share /mnt/steps
mount -t virtiofs $TAG $share
mount --bind $share/steps /mnt/steps
container() {
    root=$share/containers/$1/rootfs snapshot=$share/containers/$1/snapshotdir
    layers=upperdir=$snapshot/fs,workdir=$snapshot/work,lowerdir=$share/rafs/$1/lowerdir
    mount -t overlay -o $layers,index=off overlay $root
}
same() { [ "$1" = "$2" ] || { echo "$3: '$1', not '$2'" >&2; exit 1; }; }
"""

CONTAINER = r"""
# nothing is there, and has been asked for, when the image comes
[ ! -e $share/rafs/one/lowerdir ] && [ ! -e $share/containers/one ]
step looked
[ -d $share/rafs/one/lowerdir ] || { echo "the image did not appear" >&2; exit 1; }
until [ -d $share/containers/one/snapshotdir/fs ]; do usleep 20000; done
container one

# a program of the image runs in it, and writes
in_it() { chroot $root /bin/busybox "$@"; }
in_it cp /etc/greeting /etc/answer
same "$(in_it sh -c 'read word </etc/answer; echo $word')" "hello" "run"
cd $root
echo more >>etc/greeting
same "$(cat etc/greeting)" "hello
more" "copy-up by a write"
dd if=/dev/urandom of=big bs=100000 count=30 conv=fsync 2>/dev/null
cp bin/busybox bin/busybox-copy
same "$(chroot . /bin/busybox-copy echo ran)" "ran" "exec of what was written"

# copies keep attributes; a change of mode is one
chmod 751 bin/capable
touch bin/suid
chown 7:8 etc/owned
touch -d @1500000000 etc/touched
mv etc/renamed etc/new-name
mv folder/moved etc/moved 2>/dev/null || { cp -a folder/moved etc/moved; rm -r folder/moved; }
ln etc/greeting etc/linked

# what is removed leaves a whiteout, a folder that is made again is opaque
rm etc/removed
rm -r gone
rm -r again; mkdir again; echo new >again/new
same "$(ls -A again)" "new" "an opaque folder"
[ ! -e etc/removed ] && [ ! -e gone ]
sync
sha256sum big >/tmp/sum
cd /

# everything again through a new mount
umount $root
umount /mnt/steps
umount $share
mount -t virtiofs $TAG $share
mount --bind $share/steps /mnt/steps
container one
cd $root
same "$(cat etc/greeting)" "hello
more" "after the mount"
sha256sum -c /tmp/sum >&2
same "$(cat etc/new-name)" "renamed" "a rename after the mount"
same "$(cat again/new)$(ls -A again)" "newnew" "the opaque folder after the mount"
same "$(stat -c '%a %u %g' bin/capable etc/owned)" "751 0 0
640 7 8" "attributes after the mount"
[ ! -e etc/removed ] && [ ! -e gone ] && [ ! -e etc/renamed ]
cat big | sha256sum
cd /
"""

STOP = r"""
# a container's end: the guest still knows its files, holds one of the image, and one has its folder
exec 5<$share/rafs/one/lowerdir/etc/greeting
ls -lR $share/rafs/one/lowerdir $share/containers/one/snapshotdir >/dev/null
umount $root
step stopped
cat <&5 >/dev/null 2>&1 || true   # of an image that is gone: any answer, but one
exec 5<&-
if ls $share/rafs/one/lowerdir/etc >/dev/null 2>&1; then echo "the image is still there" >&2; exit 1; fi
echo 2 >/proc/sys/vm/drop_caches
step again
until [ -d $share/containers/one/snapshotdir/fs ]; do usleep 20000; done
container one
same "$(cat $root/etc/greeting)" "hello
more" "a container that was started again"
same "$(chroot $root /bin/busybox cat /etc/answer)" "hello" "its files"
umount $root
"""

BUSY = r"""
step first
until [ -d $share/containers/one/snapshotdir/fs ]; do usleep 20000; done
container one
one=$root
( for turn in 1 2 3 4 5 6 7 8; do
    dd if=/dev/zero of=$one/file$turn bs=64k count=20 conv=fsync 2>/dev/null || exit 1
    cat $one/bin/busybox | sha256sum || exit 1
  done ) >/tmp/sums & busy=$!
step second
until [ -d $share/containers/two/snapshotdir/fs ]; do usleep 20000; done
container two
same "$(chroot $root /bin/busybox cat /etc/greeting)" "hello" "the second container"
echo two >$root/etc/answer
wait $busy
same "$(sort -u /tmp/sums | wc -l) $(wc -l </tmp/sums)" "1 8" "reads of the first container"
ls $one | grep -c file
umount $root $one
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    work = tmp_path_factory.mktemp("kata")
    source = work / "source"
    for folder in ("bin", "etc", "gone/deep", "again/old", "folder/moved", "proc"):
        (source / folder).mkdir(parents=True)
    texts = {
        "etc/greeting": "hello\n",
        "etc/owned": "owned",
        "etc/touched": "touched",
        "etc/renamed": "renamed",
    }
    texts |= {
        "etc/removed": "removed",
        "gone/deep/file": "gone",
        "again/old/file": "old",
        "folder/moved/file": "file",
    }
    for name, text in texts.items():
        (source / name).write_text(text)
    for name, mode in {"busybox": 0o755, "capable": 0o755, "suid": 0o4755}.items():
        (source / "bin" / name).write_bytes(program("busybox").read_bytes())
        (source / "bin" / name).chmod(mode)
    os.setxattr(source / "bin/capable", "security.capability", CAPABILITY)
    os.setxattr(source / "bin/capable", "user.note", b"kept")
    (source / "etc/owned").chmod(0o640)
    os.setxattr(source / "etc/owned", "user.note", b"kept too")
    return Image(source, work)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return make_snapshot(tmp_path / "snapshot")


def make_snapshot(folder: Path) -> Path:
    for name in ("fs", "work"):
        (folder / name).mkdir(parents=True)
    return folder


class Pod:
    """A sandbox, its daemon, and a guest that runs a script while the host acts."""

    def __init__(self, sandbox: Sandbox, daemon: Nydusd, vm: Guest, image: Image, work: Path) -> None:
        self.sandbox, self.daemon, self._vm, self._image, self._work = sandbox, daemon, vm, image, work
        self.guest = SteppedGuest(work / "steps")

    def start(self, script: str) -> None:
        self.guest.start(
            lambda: self.daemon.run(
                self._vm, START + SteppedGuest.SCRIPT + script, tag="kataShared", queue_size=1024
            )
        )

    def mount(self, container: str) -> None:
        self.daemon.mount(f"/rafs/{container}/lowerdir", self._image, self._work / "cache")


#: each runtime with a kernel of its own: a Debian release's, and how many CPUs it has
GUESTS = [
    pytest.param((Runtime.GO, None, 1), id="go"),
    pytest.param((Runtime.RS, "trixie", 2), id="runtime-rs"),
    pytest.param((Runtime.GO, "bullseye", 1), id="linux-5.10", marks=pytest.mark.long),
]


@pytest.fixture(params=GUESTS)
def pod(request: pytest.FixtureRequest, image: Image, tmp_path: Path) -> Iterator[Pod]:
    runtime, release, cpus = request.param
    vm = Guest(kernel=Kernel.of(release), cpus=cpus)
    for folder in ("cache", "steps"):
        (tmp_path / folder).mkdir()
    with kata.sandbox(runtime) as sandbox:
        shared = [tmp_path / "cache", tmp_path / "steps"]
        readable = [image.bootstrap, image.blob_dir]
        daemon = Nydusd(tmp_path, sockets=sandbox.sockets, shared=shared, readable=readable)
        made = Pod(sandbox, daemon, vm, image, tmp_path)
        try:
            with daemon:
                assert daemon.sandbox()["mounts"] == "on"  # it sees the share come to life all the same
                daemon.share("/containers", sandbox.source)
                daemon.share("/steps", tmp_path / "steps")
                yield made
        finally:
            made.guest.join()  # a guest that lost its daemon ends soon


def test_a_container(pod: Pod, snapshot: Path, image: Image) -> None:
    """From the mount of the tag to the container's end, and its start anew under the same name."""
    pod.start(CONTAINER + STOP)
    pod.guest.wait("looked")
    pod.mount("one")
    pod.sandbox.add_container("one", snapshot)
    pod.guest.go("looked")
    pod.guest.wait("stopped")
    check_upper(snapshot / "fs", image.source)
    pod.daemon.umount("/rafs/one/lowerdir")
    pod.sandbox.remove_container("one")  # a plain umount: nothing below is held
    pod.guest.go("stopped")
    pod.guest.wait("again")
    pod.mount("one")
    pod.sandbox.add_container("one", snapshot)
    pod.guest.go("again")
    lines = pod.guest.end().lines
    assert lines == [f"{hashlib.sha256((snapshot / 'fs/big').read_bytes()).hexdigest()}  -"]
    pod.sandbox.remove_container("one")
    pod.daemon.umount("/rafs/one/lowerdir")


def check_upper(upper: Path, lower: Path) -> None:
    """What the container did is on the host as overlayfs keeps it."""
    for name in ("etc/removed", "gone", "etc/renamed"):
        found = (upper / name).lstat()
        assert stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(0, 0), name
    assert os.getxattr(upper / "again", "trusted.overlay.opaque") == b"y"
    assert [path.name for path in (upper / "again").iterdir()] == ["new"]
    assert (upper / "etc/greeting").read_text() == "hello\nmore\n"
    assert (upper / "etc/greeting").stat().st_ino == (upper / "etc/linked").stat().st_ino
    capable, owned = upper / "bin/capable", upper / "etc/owned"
    assert stat.S_IMODE(capable.stat().st_mode) == 0o751
    assert os.getxattr(capable, "security.capability") == CAPABILITY
    assert os.getxattr(capable, "user.note") == b"kept"
    assert capable.read_bytes() == (lower / "bin/capable").read_bytes()
    assert stat.S_IMODE((upper / "bin/suid").stat().st_mode) == 0o4755
    assert (owned.stat().st_uid, owned.stat().st_gid, stat.S_IMODE(owned.stat().st_mode)) == (7, 8, 0o640)
    assert os.getxattr(owned, "user.note") == b"kept too"
    assert (upper / "etc/touched").stat().st_mtime == 1_500_000_000
    assert (upper / "etc/new-name").read_text() == "renamed"
    assert (upper / "etc/moved/file").read_text() == "file"
    assert (upper / "big").stat().st_size == 3_000_000


def test_a_second_container_while_the_first_is_busy(pod: Pod, tmp_path: Path) -> None:
    snapshots = {name: make_snapshot(tmp_path / name) for name in ("one", "two")}
    pod.start(BUSY)
    for step, container in (("first", "one"), ("second", "two")):
        pod.guest.wait(step)
        pod.mount(container)
        pod.sandbox.add_container(container, snapshots[container])
        pod.guest.go(step)
    assert pod.guest.end().lines == ["8"]
    assert (snapshots["two"] / "fs/etc/answer").read_text() == "two\n"
    assert {path.stat().st_size for path in (snapshots["one"] / "fs").glob("file*")} == {20 << 16}
    for container in snapshots:
        pod.daemon.umount(f"/rafs/{container}/lowerdir")
        pod.sandbox.remove_container(container)
