"""A whole tree through FUSE requests, compared with the source by what system calls say of that."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Iterator

import pytest

from tests.native.rig import BuiltImage, Rig
from tests.trees import Entry, describe, differences
from virtqueue import fuse_abi as abi
from virtqueue.fuse_abi import Attr, Dirent, Opcode
from virtqueue.fuse_client import FuseClient, cut_to_pieces

FOREVER = 1 << 32
DTYPES = {stat.S_IFREG: 8, stat.S_IFDIR: 4, stat.S_IFLNK: 10, stat.S_IFCHR: 2, stat.S_IFBLK: 6}
DTYPES |= {stat.S_IFIFO: 1, stat.S_IFSOCK: 12}
# fuse_statx_out: attr_valid, attr_valid_nsec, flags, then struct fuse_statx
STATX_OUT = struct.Struct("<QII16x IIQIIIHHQQQQ" + "qIi" * 4 + "IIII112x")


@pytest.fixture(scope="module", params=[6, 5])
def rig(
    nasty: BuiltImage, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    with Rig(nasty if request.param == 6 else nasty.as_v5(tmp_path_factory.mktemp("v5"))) as rig:
        assert rig.image.version == request.param
        yield rig


@pytest.fixture(scope="module")
def client(rig: Rig) -> FuseClient:
    return rig.client()


@pytest.fixture(scope="module")
def source(nasty: BuiltImage) -> dict[bytes, Entry]:
    return describe(nasty.source)


def device_number(coded: int) -> int:
    """From Linux's 32-bit coding to the C library's."""
    return os.makedev(coded >> 8 & 0xFFF, (coded & 0xFF) | (coded >> 12 & 0xFFF00))


def mtime_ns(attr: Attr) -> int:
    seconds = attr.mtime - (1 << 64) if attr.mtime >> 63 else attr.mtime
    return seconds * 10**9 + attr.mtimensec


def walk(client: FuseClient) -> Iterator[tuple[bytes, int, Attr]]:
    """Every entry below the root, parents first, by READDIRPLUS."""
    yield b".", 1, client.getattr(1)
    waiting = [(b"", 1)]
    while waiting:
        folder, nodeid = waiting.pop()
        for dirent in sorted(client.readdir(nodeid, size=65536)):
            if dirent.name in (b".", b".."):
                continue
            assert dirent.entry is not None
            below = os.path.join(folder, dirent.name)  # noqa: PTH118
            yield below, dirent.entry.nodeid, dirent.entry.attr
            if stat.S_ISDIR(dirent.entry.attr.mode):
                waiting.append((below, dirent.entry.nodeid))


def describe_fuse(client: FuseClient) -> dict[bytes, Entry]:
    """As `tests.trees.describe`, through FUSE."""
    found: dict[bytes, Entry] = {}
    first_names: dict[int, bytes] = {}
    for below, nodeid, attr in walk(client):
        is_regular = stat.S_ISREG(attr.mode)
        found[below] = Entry(
            mode=attr.mode,
            uid=attr.uid,
            gid=attr.gid,
            size=0 if stat.S_ISDIR(attr.mode) else attr.size,
            mtime_ns=mtime_ns(attr),
            nlink=attr.nlink,
            rdev=device_number(attr.rdev),
            link_of=first_names.setdefault(nodeid, below),
            target=client.readlink(nodeid) if stat.S_ISLNK(attr.mode) else b"",
            xattrs={name: client.getxattr(nodeid, name) for name in client.listxattr(nodeid)},
            sha256=hashlib.sha256(client.read_file(nodeid, attr.size, piece=1 << 20)).hexdigest()
            if is_regular
            else "",
        )
    return found


def test_the_tree_is_the_sources(client: FuseClient, source: dict[bytes, Entry]) -> None:
    assert len(source) > 3000
    assert differences(source, describe_fuse(client)) == []


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_buffers_in_pieces_of_any_size(nasty: BuiltImage, piece: int) -> None:
    """Headers, names and data cut anywhere: what counts are the bytes."""
    with Rig(nasty) as rig:
        client = rig.client(size=1024, cut=cut_to_pieces(piece))
        names = {dirent.name for dirent in client.readdir(1, size=512)}
        assert {os.fsencode(name) for name in os.listdir(nasty.source)} == names - {b".", b".."}  # noqa: PTH208
        entry = client.walk(b"/sizes/random-65537")
        expected = (nasty.source / "sizes" / "random-65537").read_bytes()
        assert (
            b"".join(client.read(entry.nodeid, at, 400) for at in range(65000, 65537, 400))
            == expected[65000:]
        )


def test_lookup_getattr_statx_and_readdirplus_agree(client: FuseClient) -> None:
    for below, nodeid, attr in walk(client):
        assert client.getattr(nodeid) == attr
        parent, name = os.path.split(below)
        if below != b"." and parent == b"":
            entry = client.lookup(1, name)
            assert (entry.nodeid, entry.attr) == (nodeid, attr)
        check_statx(client, nodeid, attr)


def check_statx(client: FuseClient, nodeid: int, attr: Attr) -> None:
    reply = client.call(Opcode.STATX, nodeid, abi.STATX_IN.pack(0, 0, 0, 0xFFF), reply_size=STATX_OUT.size)
    (
        valid,
        valid_nsec,
        flags,
        mask,
        blksize,
        attributes,
        nlink,
        uid,
        gid,
        mode,
        _,
        ino,
        size,
        blocks,
        _,
        *rest,
    ) = STATX_OUT.unpack(reply)
    times, (rdev_major, rdev_minor, _, _) = rest[:12], rest[12:]
    atime, btime, ctime, mtime = (tuple(times[i : i + 2]) for i in range(0, 12, 3))
    assert (valid, valid_nsec, flags, attributes) == (FOREVER, 0, 0, 0)
    assert mask == 0x7FF and btime == (0, 0)
    assert (blksize, nlink, uid, gid, mode) == (attr.blksize, attr.nlink, attr.uid, attr.gid, attr.mode)
    assert (ino, size, blocks) == (attr.ino, attr.size, attr.blocks)
    assert mtime[0] * 10**9 + mtime[1] == mtime_ns(attr) and mtime == atime == ctime
    assert os.makedev(rdev_major, rdev_minor) == device_number(attr.rdev)


def test_what_never_changes_may_be_kept_for_ever(client: FuseClient) -> None:
    entry = client.lookup(1, b"sizes")
    assert (entry.entry_valid, entry.attr_valid, entry.generation) == (FOREVER, FOREVER, 0)
    absent = client.lookup(1, b"no such name")
    assert (absent.nodeid, absent.entry_valid) == (0, FOREVER)


def test_dot_and_dot_dot(client: FuseClient) -> None:
    names = client.lookup(1, b"names")
    folders = client.lookup(names.nodeid, b"folders")
    assert client.lookup(folders.nodeid, b".") == folders
    assert client.lookup(folders.nodeid, b"..") == names
    root = client.lookup(names.nodeid, b"..")
    assert root.nodeid == 1 and client.lookup(1, b"..") == root == client.lookup(1, b".")
    file = client.walk(b"/sizes/random-5")
    assert client.lookup(file.nodeid, b".") == file  # a file handle that comes back
    with pytest.raises(NotADirectoryError):
        client.lookup(file.nodeid, b"..")


def test_names_near_those_that_exist(client: FuseClient) -> None:
    crowd = client.lookup(1, b"crowd")
    names = sorted(dirent.name for dirent in client.readdir(crowd.nodeid, size=65536))
    existing = set(names)
    for name in names[::50]:
        for near in (name[:-1], name + b"n", name + b"\x01", name[:-1] + b"\xff", b"\0" + name):
            near = near.partition(b"\0")[0]
            if near and near not in existing and len(near) <= 255:
                assert client.lookup(crowd.nodeid, near).nodeid == 0
    for near in (b"\x01", b"\xff" * 255, b"!", b"-", b"/", b"a/b"):
        assert client.lookup(crowd.nodeid, near).nodeid == 0
    with pytest.raises(OSError) as caught:
        client.lookup(crowd.nodeid, b"n" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [408, 512, 1000, 4096, 65536, 1 << 20])
def test_a_large_directory_with_buffers_of_any_size(client: FuseClient, plus: bool, size: int) -> None:
    crowd = client.lookup(1, b"crowd")
    dirents = client.readdir(crowd.nodeid, plus=plus, size=size)
    names = [dirent.name for dirent in dirents]
    assert len(names) == len(set(names)) == 2000 + 1 + 2
    for dirent in dirents[::100]:
        check_dirent(client, crowd.nodeid, dirent)


def check_dirent(client: FuseClient, parent: int, dirent: Dirent) -> None:
    entry = client.lookup(parent, dirent.name)
    assert (dirent.ino, dirent.dtype) == (entry.attr.ino, DTYPES[stat.S_IFMT(entry.attr.mode)])
    if dirent.entry is not None and dirent.name not in (b".", b".."):
        assert dirent.entry == entry


def test_readdirplus_leaves_dot_and_dot_dot_to_the_driver(client: FuseClient) -> None:
    dots = [dirent for dirent in client.readdir(1) if dirent.name in (b".", b"..")]
    assert len(dots) == 2 and all(dot.entry is not None and dot.entry.nodeid == 0 for dot in dots)
    assert all(dot.ino == client.getattr(1).ino for dot in dots)


@pytest.mark.parametrize("plus", [False, True])
def test_a_listing_resumes_at_any_entry(client: FuseClient, plus: bool) -> None:
    crowd = client.lookup(1, b"crowd")
    dirents = client.readdir(crowd.nodeid, plus=plus, size=65536)
    opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
    offsets = [0] + [dirent.off for dirent in dirents]
    assert len(set(offsets)) == len(offsets)
    for position in [*range(0, len(offsets) - 1, 37), len(offsets) - 2, len(offsets) - 1]:
        body = abi.READ_IN.pack(0, offsets[position], 1024, 0, 0, 0)
        payload = client.call(opcode, crowd.nodeid, body, reply_size=1024)
        found = abi.parse_dirents(payload, plus=plus)
        assert found == dirents[position : position + len(found)]
        assert bool(found) == (position < len(dirents))


@pytest.mark.parametrize("offset", [2, 3, 0xFFFF, 0x10000, 1 << 20, (1 << 48) + 1, (1 << 63), (1 << 64) - 1])
def test_offsets_that_were_never_given(client: FuseClient, offset: int) -> None:
    """An entry, or the end; no error and no harm."""
    body = abi.READ_IN.pack(0, offset, 4096, 0, 0, 0)
    for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
        abi.parse_dirents(client.call(opcode, 1, body, reply_size=4096), plus=opcode is Opcode.READDIRPLUS)


def test_room_for_not_even_one_entry(client: FuseClient) -> None:
    for opcode, size in ((Opcode.READDIR, 31), (Opcode.READDIRPLUS, 159), (Opcode.READDIR, 0)):
        with pytest.raises(OSError) as caught:
            client.call(opcode, 1, abi.READ_IN.pack(0, 0, size, 0, 0, 0), reply_size=4096)
        assert caught.value.errno == errno.EINVAL
    # the reply buffer bounds it as well as the size that is asked for
    payload = client.call(Opcode.READDIR, 1, abi.READ_IN.pack(0, 0, 1 << 20, 0, 0, 0), reply_size=64)
    assert len(abi.parse_dirents(payload, plus=False)) == 2


def test_an_empty_directory_and_what_is_none(client: FuseClient) -> None:
    empty = client.lookup(1, b"empty")
    assert [dirent.name for dirent in client.readdir(empty.nodeid)] == [b".", b".."]
    file = client.walk(b"/sizes/random-5")
    for plus in (False, True):
        with pytest.raises(NotADirectoryError):
            client.readdir(file.nodeid, plus=plus)


def test_links(client: FuseClient, source: dict[bytes, Entry]) -> None:
    for name, entry in source.items():
        if name.startswith(b"symlinks/"):
            assert client.readlink(client.walk(name).nodeid) == entry.target
    link = client.walk(b"/symlinks/long-4095")
    with pytest.raises(OSError) as caught:
        client.call(Opcode.READLINK, link.nodeid, reply_size=4094)
    assert caught.value.errno == errno.ENAMETOOLONG
    for nodeid in (1, client.walk(b"/sizes/random-5").nodeid, client.walk(b"/special/fifo").nodeid):
        with pytest.raises(OSError) as caught:
            client.readlink(nodeid)
        assert caught.value.errno == errno.EINVAL


def test_attributes(client: FuseClient, source: dict[bytes, Entry]) -> None:
    nodeid = client.walk(b"/xattrs/all").nodeid
    expected = source[b"xattrs/all"].xattrs
    listing = b"".join(name + b"\0" for name in client.listxattr(nodeid))
    assert sorted(listing.split(b"\0")[:-1]) == sorted(expected)
    (size,) = abi.GETXATTR_OUT.unpack(
        client.call(Opcode.LISTXATTR, nodeid, abi.GETXATTR_IN.pack(0), reply_size=abi.GETXATTR_OUT.size)
    )
    assert size == len(listing)
    assert len(client.listxattr(nodeid, size)) == len(expected)
    with pytest.raises(OSError) as caught:
        client.listxattr(nodeid, size - 1)
    assert caught.value.errno == errno.ERANGE
    for name, value in expected.items():
        body = abi.GETXATTR_IN.pack(0) + name + b"\0"
        (size,) = abi.GETXATTR_OUT.unpack(client.call(Opcode.GETXATTR, nodeid, body, reply_size=8))
        assert size == len(value)
        assert client.getxattr(nodeid, name, max(size, 1)) == value
        if size > 1:
            with pytest.raises(OSError) as caught:
                client.getxattr(nodeid, name, size - 1)
            assert caught.value.errno == errno.ERANGE


@pytest.mark.parametrize(
    "name", [b"user.nam", b"user.namee", b"user.", b"user", b"name", b"x" * 255, b"system.posix_acl_accessx"]
)
def test_attributes_that_are_not_there(client: FuseClient, name: bytes) -> None:
    for path in (b"/xattrs/all", b"/sizes/random-5"):
        with pytest.raises(OSError) as caught:
            client.getxattr(client.walk(path).nodeid, name)
        assert caught.value.errno == errno.ENODATA


def test_lseek(client: FuseClient) -> None:
    nodeid, size = client.walk(b"/sizes/random-65537").nodeid, 65537
    for offset in (0, 1, 4096, 65536):
        assert client.lseek(nodeid, offset, os.SEEK_DATA) == offset
        assert client.lseek(nodeid, offset, os.SEEK_HOLE) == size
    for offset, whence, expected in (
        (size, os.SEEK_DATA, errno.ENXIO),
        (size, os.SEEK_HOLE, errno.ENXIO),
        ((1 << 64) - 1, os.SEEK_DATA, errno.ENXIO),
        (0, os.SEEK_SET, errno.EINVAL),
        (0, 77, errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:
            client.lseek(nodeid, offset, whence)
        assert caught.value.errno == expected


def test_statfs(client: FuseClient, rig: Rig) -> None:
    blocks, bfree, bavail, files, ffree, bsize, namelen, frsize = client.statfs()
    assert (bfree, bavail, ffree, bsize, namelen, frsize) == (0, 0, 0, 4096, 255, 4096)
    assert files == rig.image.inode_count > 2700
    assert blocks * 4096 >= rig.cache.record.uncompressed_size


def test_access(client: FuseClient) -> None:
    nodeid = client.walk(b"/modes/file-0").nodeid
    for mask in (os.F_OK, os.R_OK, os.X_OK, os.R_OK | os.X_OK):
        client.call(Opcode.ACCESS, nodeid, abi.ACCESS_IN.pack(mask))  # the driver decides from the mode
    with pytest.raises(OSError) as caught:
        client.call(Opcode.ACCESS, nodeid, abi.ACCESS_IN.pack(os.W_OK))
    assert caught.value.errno == errno.EROFS


def test_reads_of_what_has_no_data(client: FuseClient) -> None:
    with pytest.raises(IsADirectoryError):
        client.read(1, 0, 4096)
    for path in (b"/special/fifo", b"/special/null", b"/symlinks/short"):
        with pytest.raises(OSError) as caught:
            client.read(client.walk(path).nodeid, 0, 4096)
        assert caught.value.errno == errno.EINVAL
