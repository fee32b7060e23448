"""A hostile guest, and a host that changes things under it: nothing outside of the share is ever reached."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import resource
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.dataplane import DirectoryOptions, FileHandles
from tests.native.host_mounts import LIBC, clean_mounts, mount, umount
from tests.native.share import Share, error_of, raises, same_attr
from virtqueue.fuse_abi import Opcode

EXCHANGE = 2


@pytest.fixture(params=[FileHandles.PREFER, FileHandles.NEVER], ids=["handles", "descriptors"])
def share(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Share]:
    """`secret` is outside of the share."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_bytes(b"secret")
    (tmp_path / "source" / "dir" / "below").mkdir(parents=True)
    (tmp_path / "source" / "file").write_bytes(b"public")
    (tmp_path / "source" / "dir" / "file").write_bytes(b"public")
    with Share(tmp_path / "source", DirectoryOptions(file_handles=request.param)) as made:
        yield made


class TestDots:
    def test_the_root_is_its_own_parent(self, share: Share) -> None:
        for name in (b"..", b"."):
            assert share.client.lookup(share.root, name).nodeid == share.root
        same_attr(share.client.lookup(share.root, b"..").attr, share.source)

    def test_a_parent_that_the_guest_knows(self, share: Share) -> None:
        directory = share.client.walk(b"dir")
        below = share.client.walk(b"dir/below")
        assert share.client.lookup(below.nodeid, b"..").nodeid == directory.nodeid
        assert share.client.lookup(directory.nodeid, b"..").nodeid == share.root
        file = share.client.walk(b"file")
        assert share.client.lookup(file.nodeid, b".").nodeid == file.nodeid

    def test_they_count_as_look_ups(self, share: Share) -> None:
        directory = share.client.lookup(share.root, b"dir")
        below = share.client.lookup(directory.nodeid, b"below")
        share.client.lookup(below.nodeid, b"..")
        share.client.lookup(below.nodeid, b".")
        share.client.forget(directory.nodeid, 1)
        share.client.getattr(directory.nodeid)
        share.client.forget(directory.nodeid, 1)
        share.client.forget(below.nodeid, 1)
        share.client.getattr(below.nodeid)
        share.client.forget(below.nodeid, 1)
        assert share.facts().inodes == 0

    def test_a_directory_that_the_host_moves_out_leads_nowhere(self, share: Share, tmp_path: Path) -> None:
        below = share.client.walk(b"dir/below")
        (share.source / "dir" / "below").rename(tmp_path / "secret" / "below")
        with raises(errno.ESTALE):
            share.client.lookup(below.nodeid, b"..")

    @pytest.mark.parametrize("name", [b"../secret", b"dir/..", b"/etc", b"/", b"dir/file", b"..\0", b""])
    def test_names_of_more_than_one_part(self, share: Share, name: bytes) -> None:
        with raises(errno.EINVAL):
            if share.client.lookup(share.root, name).nodeid == share.root:
                raise OSError(errno.EINVAL, "only the root itself")

    def test_a_name_without_an_end(self, share: Share) -> None:
        with raises(errno.EINVAL):
            share.client.call(Opcode.LOOKUP, share.root, b"file", reply_size=128)
        with raises(errno.EINVAL):
            share.client.call(Opcode.RENAME, share.root, struct.pack("<Q", 1) + b"file\0new")


class TestSymlinks:
    @pytest.mark.parametrize("target", ["/etc", "/", "../secret", "../../../../../../etc", "/proc/self/root"])
    def test_the_host_follows_none(self, share: Share, target: str) -> None:
        (share.source / "link").symlink_to(target)
        link = share.client.lookup(share.root, b"link")
        assert share.client.readlink(link.nodeid) == target.encode()
        for call, code in (
            (lambda: share.client.lookup(link.nodeid, b"file"), errno.ENOTDIR),
            (lambda: share.client.mkdir(link.nodeid, b"new"), errno.ENOTDIR),
            (lambda: share.client.create(link.nodeid, b"new")[0], errno.ENOTDIR),
            (lambda: share.client.unlink(link.nodeid, b"file"), errno.ENOTDIR),
            (lambda: share.client.rename(link.nodeid, b"file", share.root, b"x"), errno.ENOTDIR),
            (lambda: share.client.opendir(link.nodeid), errno.ENOTDIR),
            (lambda: share.client.open_file(link.nodeid), errno.ELOOP),
            (lambda: share.client.truncate(link.nodeid, 0), errno.EINVAL),
            (lambda: share.client.create(share.root, b"link")[0], errno.ELOOP),
            (lambda: share.client.mkdir(share.root, b"link"), errno.EEXIST),
        ):
            assert error_of(call) == code

    def test_changes_of_one_are_of_the_link_itself(self, share: Share, tmp_path: Path) -> None:
        secret = tmp_path / "secret" / "file"
        before = secret.stat()
        (share.source / "link").symlink_to(secret)
        link = share.client.lookup(share.root, b"link")
        share.client.setattr(link.nodeid, 1 << 1 | 1 << 2, uid=7, gid=7)
        share.client.setattr(link.nodeid, 1 << 4 | 1 << 5, atime=7, mtime=7)
        assert error_of(lambda: share.client.setattr(link.nodeid, 1, mode=0)) == errno.EOPNOTSUPP
        share.client.setxattr(link.nodeid, b"trusted.x", b"y")
        share.client.link(link.nodeid, share.root, b"link2")
        assert secret.stat() == before
        assert os.listxattr(secret) == []


@pytest.fixture
def swapping(share: Share, tmp_path: Path) -> Iterator[None]:
    """A host that swaps the directory `dir` and a symlink to the secret one, as fast as it can."""
    (share.source / "link").symlink_to(tmp_path / "secret")
    stop = threading.Event()
    one, other = bytes(share.source / "dir"), bytes(share.source / "link")

    def swap() -> None:
        while not stop.is_set():
            LIBC.renameat2(-100, one, -100, other, EXCHANGE)

    thread = threading.Thread(target=swap)
    thread.start()
    yield
    stop.set()
    thread.join()


def race(share: Share, name: bytes, seen: set[bytes]) -> None:
    """Reads and makes files in what `name` was a moment ago."""
    client = share.client
    entry = client.lookup(share.root, name)
    nodeid, fh = client.create(entry.nodeid, b"file", os.O_RDWR)
    seen.add(client.read(nodeid.nodeid, 0, 100, fh=fh))
    client.release(nodeid.nodeid, fh)
    file = client.lookup(entry.nodeid, b"file")
    fh = client.open_file(file.nodeid)
    seen.add(client.read(file.nodeid, 0, 100, fh=fh))
    client.release(file.nodeid, fh)
    client.mknod(entry.nodeid, b"new", 0o100644)
    client.unlink(entry.nodeid, b"new")


@pytest.mark.usefixtures("swapping")
def test_a_race_of_look_ups_against_a_symlink(share: Share, tmp_path: Path) -> None:
    seen, codes = set[bytes](), set[int]()
    for _ in range(1000):
        for name in (b"dir", b"link"):
            codes.add(error_of(lambda: race(share, name, seen)))  # noqa: B023
    assert codes == {0, errno.ENOTDIR}  # it was the directory, or the symlink
    assert seen == {b"public"}
    assert [path.name for path in (tmp_path / "secret").iterdir()] == ["file"]


@pytest.mark.usefixtures("swapping")
def test_a_race_of_readdirplus_against_a_symlink(share: Share) -> None:
    for _ in range(500):
        for dirent in share.client.list_dir(share.root):
            entry = dirent.entry
            if dirent.name in (b"dir", b"link") and entry and entry.nodeid:
                code = error_of(lambda: share.client.lookup(entry.nodeid, b"file"))  # noqa: B023
                assert code == (0 if entry.attr.mode >> 12 == 4 else errno.ENOTDIR)


def test_magic_links_of_proc_are_symlinks_like_others(share: Share, tmp_path: Path) -> None:
    """A host may have mounted proc into the share, as no sane one would."""
    with clean_mounts(tmp_path):
        (share.source / "proc").mkdir()
        mount("proc", share.source / "proc", "proc")
        for name in (b"root", b"cwd", b"exe", b"fd/1"):
            assert share.client.readlink(share.client.walk(b"proc/self").nodeid).isdigit()
            magic = share.client.walk(b"proc/%d/" % os.getpid() + name)
            with raises(errno.ENOTDIR):
                share.client.lookup(magic.nodeid, b"etc")
            with raises(errno.ELOOP):
                share.client.open_file(magic.nodeid)
            with raises(errno.ENOTDIR):
                share.client.opendir(magic.nodeid)
        share.client.init()
        umount(share.source / "proc")


def all_calls(share: Share, nodeid: int, fh: int) -> Iterator[tuple[str, int]]:
    """The errno of every operation on a node id and handle."""
    c = share.client
    calls = {
        "lookup": lambda: c.lookup(nodeid, b"x"),
        "getattr": lambda: c.getattr(nodeid),
        "setattr": lambda: c.setattr(nodeid, 1, mode=0),
        "readlink": lambda: c.readlink(nodeid),
        "symlink": lambda: c.symlink(nodeid, b"x", b"y"),
        "mknod": lambda: c.mknod(nodeid, b"x", 0o100644),
        "mkdir": lambda: c.mkdir(nodeid, b"x"),
        "unlink": lambda: c.unlink(nodeid, b"x"),
        "rmdir": lambda: c.rmdir(nodeid, b"x"),
        "rename": lambda: c.rename(nodeid, b"x", share.root, b"y"),
        "rename to": lambda: c.rename(share.root, b"x", nodeid, b"y"),
        "rename2": lambda: c.rename(nodeid, b"x", share.root, b"y", 0),
        "link": lambda: c.link(nodeid, share.root, b"x"),
        "link to": lambda: c.link(share.root, nodeid, b"x"),
        "open": lambda: c.open_file(nodeid),
        "opendir": lambda: c.opendir(nodeid),
        "create": lambda: c.create(nodeid, b"x"),
        "tmpfile": lambda: c.tmpfile(nodeid),
        "read": lambda: c.read(nodeid, 0, 10, fh=fh),
        "write": lambda: c.write(nodeid, fh, 0, b"x"),
        "statfs": lambda: c.statfs(nodeid),
        "fsync": lambda: c.fsync(nodeid, fh),
        "fsyncdir": lambda: c.fsync(nodeid, fh, directory=True),
        "setxattr": lambda: c.setxattr(nodeid, b"user.x", b"y"),
        "getxattr": lambda: c.getxattr(nodeid, b"user.x"),
        "listxattr": lambda: c.listxattr(nodeid),
        "removexattr": lambda: c.removexattr(nodeid, b"user.x"),
        "flush": lambda: c.flush(nodeid, fh),
        "readdir": lambda: c.readdir(nodeid, fh=fh, plus=False),
        "readdirplus": lambda: c.readdir(nodeid, fh=fh),
        "access": lambda: c.access(nodeid, 4),
        "fallocate": lambda: c.fallocate(nodeid, fh, 0, 1),
        "lseek": lambda: c.lseek(nodeid, 0, os.SEEK_DATA, fh=fh),
        "copy": lambda: c.copy_file_range(nodeid, fh, 0, nodeid, fh, 0, 1),
    }
    for name, call in calls.items():
        yield name, error_of(call)


@pytest.mark.parametrize("nodeid", [2, 63, 64, 12345, 1 << 40, (1 << 48) - 1, 5 << 48 | 1, (1 << 64) - 1])
def test_node_ids_that_nobody_has(share: Share, nodeid: int) -> None:
    for name, code in all_calls(share, nodeid, 0):
        expected = {errno.ESTALE} if nodeid < 1 << 48 else {errno.ESTALE, errno.EXDEV}
        assert code in expected, name


def test_handles_of_others(share: Share) -> None:
    one, two = share.client.walk(b"file"), share.client.walk(b"dir/file")
    fh = share.client.open_file(two.nodeid, os.O_RDWR)
    with_handle = {"read", "write", "fsync", "fsyncdir", "flush", "fallocate", "lseek", "copy"}
    for bad in (fh, fh ^ 1 << 32, 0, (1 << 64) - 1):
        for name, code in all_calls(share, one.nodeid, bad):
            if name in with_handle:
                assert code == errno.EBADF, name
    assert (share.source / "file").read_bytes() == b"public"


def test_100_000_inodes_need_no_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for index in range(100_000):
        os.mknod(tmp_path / f"{index}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with Share(tmp_path) as share:
            listed = share.client.list_dir(share.root, size=1 << 20)
            assert share.facts().inodes == 100_000
            assert sum(1 for _ in Path("/proc/self/fd").iterdir()) < 200
            assert len({dirent.entry.nodeid for dirent in listed if dirent.entry}) == 100_001
            for dirent in listed[:: len(listed) // 50]:
                if dirent.entry and dirent.entry.nodeid:
                    same_attr(share.client.getattr(dirent.entry.nodeid), tmp_path / os.fsdecode(dirent.name))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_guest_cannot_use_up_our_descriptors(share: Share) -> None:
    """What it opens, and inodes without handles, end before RLIMIT_NOFILE: we still need some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    entry = share.client.walk(b"file")
    resource.setrlimit(resource.RLIMIT_NOFILE, (700, hard))
    try:
        handles = list[int]()
        with raises(errno.ENFILE):
            while True:
                handles.append(share.client.open_file(entry.nodeid))
        assert 100 < len(handles) < 200
        os.close(os.dup(0))
        share.client.getattr(entry.nodeid)
        share.client.release(entry.nodeid, handles.pop())
        handles.append(share.client.open_file(entry.nodeid))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_requests_of_random_bytes(share: Share) -> None:
    """Anything is answered, with an error or without; the share and the daemon stay."""
    rng = random.Random(11)
    known = [
        share.root,
        share.client.walk(b"dir").nodeid,
        share.client.walk(b"file").nodeid,
        0,
        64 * 77,
        9 << 48,
    ]
    handles = [
        share.client.open_file(known[2], os.O_RDWR),
        share.client.opendir(share.root),
        0,
        (1 << 64) - 1,
    ]
    small = [0, 1, 7, 64, 4096, 0xFFFFFFFF]
    # not INIT and DESTROY, which end the session, nor SYNCFS, which takes its time
    opcodes = [code for code in range(1, 64) if code not in (Opcode.INIT, Opcode.DESTROY, Opcode.SYNCFS)]
    for _ in range(3000):
        words = [
            struct.pack("<Q", rng.choice([*known, *handles, rng.getrandbits(64)]))
            if rng.random() < 0.5
            else struct.pack("<II", rng.choice(small), rng.choice(small))
            for _ in range(rng.randrange(8))
        ]
        names = rng.choice([b"", b"x\0", b"x\0y\0", b"file\0", b"user.x\0", rng.randbytes(20), b"..\0"])
        opcode = rng.choice(opcodes)
        has_reply = opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET)
        share.client.uid = rng.choice([0, 1000])
        unique = share.client.submit(
            opcode,
            rng.choice(known),
            b"".join(words) + names,
            reply_size=rng.choice([0, 8, 128, 4096]),
            has_reply=has_reply,
        )
        error_of(lambda: share.client.wait(unique))  # noqa: B023
    share.client.uid = 0
    assert share.client.lookup(share.root, b".").nodeid == share.root
    assert (share.source.parent / "secret" / "file").read_bytes() == b"secret"


def test_the_kernel_that_runs_this_has_what_is_needed() -> None:
    """openat2 is Linux 5.6; without it every test above would fail for one reason."""
    assert LIBC.syscall(437, -1, None, None, ctypes.c_size_t(0)) == -1
    assert ctypes.get_errno() != errno.ENOSYS
