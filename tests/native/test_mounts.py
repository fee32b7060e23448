"""Many mounts in one session: pseudo directories, node ids that never collide, umount under I/O."""

from __future__ import annotations

import errno
import stat
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.native.rig import BuiltImage, Fetcher, Rig, until
from tests.native.share import error_of
from virtqueue import fuse_abi as abi
from virtqueue.fuse_abi import Opcode

#: of the session, or without a reply
SESSION = {Opcode.INIT, Opcode.DESTROY, Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}


def names(rig_client: object, nodeid: int, *, plus: bool) -> list[bytes]:
    entries = rig_client.readdir(nodeid, plus=plus)  # type: ignore[attr-defined]
    return sorted(entry.name for entry in entries)


@pytest.mark.parametrize("plus", [True, False])
def test_an_empty_session_is_an_empty_directory(plain: BuiltImage, plus: bool) -> None:
    with Rig(plain, path=None) as rig:
        fuse = rig.client()
        assert stat.S_ISDIR(fuse.getattr(1).mode)
        assert names(fuse, 1, plus=plus) == [b".", b".."]
        with pytest.raises(FileNotFoundError):
            fuse.lookup(1, b"rafs")


def test_a_mount_is_seen_at_once_where_it_was_missed_before(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, path=None) as rig:
        fuse = rig.client()
        with pytest.raises(FileNotFoundError):
            fuse.lookup(1, b"rafs")
        rig.mount("/rafs/one/lowerdir")
        entry = fuse.walk(b"/rafs/one/lowerdir/big")
        assert fuse.read_file(entry.nodeid, entry.attr.size) == big
        assert names(fuse, 1, plus=False) == [b".", b"..", b"rafs"]
        assert names(fuse, fuse.walk(b"/rafs").nodeid, plus=True) == [b".", b"..", b"one"]


def test_a_missing_name_is_an_error_that_the_driver_does_not_keep(plain: BuiltImage) -> None:
    with Rig(plain, path="/rafs/one") as rig:
        fuse = rig.client()
        with pytest.raises(FileNotFoundError):
            fuse.lookup(1, b"other")
        assert fuse.lookup(1, b"rafs").entry_valid > 1 << 30  # a directory above mounts stays one
        assert fuse.walk(b"/rafs/one").entry_valid <= 1  # a mount may go


@pytest.mark.parametrize("plus", [True, False])
def test_a_listing_goes_on_where_it_was_when_mounts_come(plain: BuiltImage, plus: bool) -> None:
    """What comes meanwhile is listed too, and nothing twice; what was unmounted stays a directory."""
    with Rig(plain, path=None) as rig:
        fuse = rig.client()
        for number in range(20):
            rig.mount(f"/mount-{number}")
        opcode, size = (Opcode.READDIRPLUS, 600) if plus else (Opcode.READDIR, 150)  # three entries or four
        seen: list[bytes] = []
        offset, turn = 0, 0
        while entries := abi.parse_dirents(
            fuse.call(opcode, 1, abi.READ_IN.pack(0, offset, size, 0, 0, 0), reply_size=size), plus=plus
        ):
            seen += [entry.name for entry in entries]
            offset = entries[-1].off
            rig.device.umount(f"/mount-{turn}")
            if turn < 5:
                rig.mount(f"/late-{turn}")
            turn += 1
        assert turn >= 5
        assert seen[:2] == [b".", b".."] and len(set(seen)) == len(seen)
        expected = {f"mount-{number}" for number in range(20)} | {f"late-{number}" for number in range(5)}
        assert {name.decode() for name in seen[2:]} == expected


def test_node_ids_and_inode_numbers_of_two_mounts_differ(plain: BuiltImage) -> None:
    with Rig(plain, path="/a") as rig:
        rig.mount("/b")
        fuse = rig.client()
        one, other = fuse.walk(b"/a/big"), fuse.walk(b"/b/big")
        assert one.nodeid != other.nodeid and one.attr.ino != other.attr.ino
        seen = {
            entry.ino for path in (b"/a", b"/b") for entry in fuse.readdir(fuse.walk(path).nodeid, plus=False)
        }
        assert {one.attr.ino, other.attr.ino} < seen


def test_dot_dot_leads_up_to_the_root_and_no_further(plain: BuiltImage) -> None:
    with Rig(plain, path="/x/y") as rig:
        fuse = rig.client()
        x = fuse.walk(b"/x").nodeid
        assert fuse.lookup(x, b"..").nodeid == 1
        assert fuse.lookup(1, b"..").nodeid == 1
        assert fuse.lookup(x, b".").nodeid == x


def test_no_kind_of_mount_denies_what_another_can_do(plain: BuiltImage, tmp_path: Path) -> None:
    """A driver takes ENOSYS as the word of the whole session (contract, gotcha 26)."""
    (tmp_path / "file").touch()
    with Rig(plain, path="/rafs") as rig:
        rig.device.mount_directory("/share", tmp_path)
        fuse = rig.client()
        nodes = {path: fuse.walk(path).nodeid for path in (b"/share/file", b"/rafs/big", b"/rafs", b"/share")}
        nodes[b"/"] = 1
        body = bytes(256)  # arguments of all zeros, which are good for an error at least
        for opcode in set(Opcode) - SESSION:
            denied = [
                path
                for path, nodeid in nodes.items()
                if error_of(partial(fuse.call, opcode, nodeid, body, reply_size=4096)) == errno.ENOSYS
            ]
            assert len(denied) in (0, len(nodes)), (opcode, denied)


def test_locks_of_an_image_cannot_be_had(plain: BuiltImage) -> None:
    with Rig(plain, path="/rafs") as rig:
        fuse = rig.client()
        nodeid = fuse.walk(b"/rafs/big").nodeid
        for opcode in (Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW):
            assert error_of(partial(fuse.call, opcode, nodeid, bytes(48), reply_size=128)) == errno.EOPNOTSUPP


def test_after_umount_what_the_guest_remembers_is_stale(plain: BuiltImage) -> None:
    with Rig(plain, path="/a") as rig:
        fuse = rig.client()
        remembered = fuse.walk(b"/a/big").nodeid
        rig.device.umount("/a")
        for use in (fuse.getattr, lambda node: fuse.read(node, 0, 10), lambda node: fuse.lookup(node, b"x")):
            with pytest.raises(OSError) as caught:
                use(remembered)
            assert caught.value.errno == errno.ESTALE
        fuse.forget(remembered)
        fuse.batch_forget([(remembered, 1), (1 << 63, 5)])
        rig.mount("/a")  # the same path again: another mount
        assert fuse.walk(b"/a/big").nodeid != remembered


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/a", FileExistsError),
        ("/", FileExistsError),
        ("//a/", FileExistsError),
        ("/a/below", NotADirectoryError),
        ("relative", OSError),
        ("/x/../y", OSError),
        ("/x/.", OSError),
        ("/" + "n" * 256, OSError),
        ("", OSError),
    ],
)
def test_paths_that_cannot_be_mounted_are_refused(plain: BuiltImage, path: str, error: type[OSError]) -> None:
    with Rig(plain, path="/a") as rig:
        with pytest.raises(error):
            rig.mount(path)
        fuse = rig.client()
        assert fuse.walk(b"/a/big").attr.size > 0


def test_a_directory_above_a_mount_cannot_be_mounted(plain: BuiltImage) -> None:
    with Rig(plain, path="/a/b") as rig, pytest.raises(FileExistsError):
        rig.mount("/a")


@pytest.mark.parametrize("path", ["/b", "/a/b", "/", "", "x"])
def test_umount_of_what_is_not_mounted(plain: BuiltImage, path: str) -> None:
    with Rig(plain, path="/a") as rig, pytest.raises(OSError):
        rig.device.umount(path)


def test_the_root_can_be_mounted_and_unmounted(plain: BuiltImage, big: bytes) -> None:
    with Rig(plain, path=None) as rig:
        fuse = rig.client()
        rig.mount("/")
        assert fuse.read_file(fuse.walk(b"/big").nodeid, len(big)) == big
        with pytest.raises(FileExistsError):
            rig.mount("/b")
        rig.device.umount("/")
        assert names(fuse, 1, plus=False) == [b".", b".."]
        rig.mount("/b")
        assert fuse.walk(b"/b/big").attr.size == len(big)


def test_a_request_that_waits_for_a_chunk_outlives_its_mount(plain: BuiltImage) -> None:
    with Rig(plain, path="/a", warm=False) as rig:
        fuse = rig.client()
        node = fuse.walk(b"/a/big").nodeid
        unique = fuse.submit_read(node, 0, 4096)
        rig.wait_upcalls()
        rig.device.umount("/a")
        rig.cache.fill(0, 1)
        with pytest.raises(OSError) as caught:
            fuse.wait(unique)
        assert caught.value.errno == errno.ESTALE


def test_mounts_come_and_go_a_thousand_times_under_reads(plain: BuiltImage, big: bytes) -> None:
    """The reader of the mount that stays sees no error; that of the one that goes only ESTALE or ENOENT."""
    with Rig(plain, path="/stays", warm=False, num_request_queues=2) as rig, Fetcher(rig):
        steady, other = rig.client(1), rig.client(2, init=False)
        ended = threading.Event()
        failures: list[Exception] = []
        rounds = [0, 0]

        def read(which: int, path: bytes, allowed: tuple[int, ...]) -> None:
            client = (steady, other)[which]
            offset = 0
            try:
                while not ended.is_set():
                    try:
                        node = client.walk(path).nodeid
                        assert client.read(node, offset, 8192) == big[offset : offset + 8192]
                        rounds[which] += 1
                    except OSError as error:
                        if error.errno not in allowed:
                            raise
                    offset = (offset + 65536) % (len(big) - 8192)
            except Exception as failure:
                failures.append(failure)

        threads = [
            threading.Thread(target=read, args=(0, b"/stays/big", ())),
            threading.Thread(target=read, args=(1, b"/goes/big", (errno.ESTALE, errno.ENOENT))),
        ]
        for thread in threads:
            thread.start()
        for _ in range(1000):
            rig.mount("/goes")
            rig.device.umount("/goes")
        rig.mount("/goes")
        enough = [done + 10 for done in rounds]
        until(lambda: bool(failures) or all(now >= then for now, then in zip(rounds, enough, strict=True)))
        ended.set()
        for thread in threads:
            thread.join()
        assert not failures
