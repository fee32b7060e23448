"""``FuseClient``: FUSE calls over a ``Driver``, one at a time or many in flight.

Part of the driver-side mock. ``client.read(nodeid, offset, size)`` sends and waits; ``submit`` and ``wait``
are the two halves. An error of the device comes as OSError with its errno (FileNotFoundError for ENOENT and
so on); a reply that no FUSE device may give comes as ``BadReply``. Single-threaded, as the driver is.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from virtqueue import fuse_abi as abi
from virtqueue.driver import DEFAULT_TIMEOUT, Buffer, Driver, Used
from virtqueue.fuse_abi import Attr, Dirent, Entry, InitReply, Opcode


class BadReply(Exception):
    """The device broke the FUSE or virtio-fs contract: wrong unique, length or used length."""


class _Pending(NamedTuple):
    unique: int
    opcode: int
    readable: Buffer
    writable: Buffer | None


INIT_FLAGS = (
    abi.InitFlag.ASYNC_READ
    | abi.InitFlag.EXPORT_SUPPORT
    | abi.InitFlag.DO_READDIRPLUS
    | abi.InitFlag.READDIRPLUS_AUTO
    | abi.InitFlag.NO_OPEN_SUPPORT
    | abi.InitFlag.PARALLEL_DIROPS
    | abi.InitFlag.MAX_PAGES
    | abi.InitFlag.CACHE_SYMLINKS
    | abi.InitFlag.NO_OPENDIR_SUPPORT
    | abi.InitFlag.INIT_EXT
)


class FuseClient:
    """FUSE over one virtqueue.

    ``indirect``: put each chain in an indirect table. ``timeout``: seconds that a wait may last.
    ``cut``: how a buffer that begins with a header of n bytes is cut into descriptors; by default the header
    has one of its own, as in Linux. ``place``: where buffers go (bytes -> gpa) instead of allocated memory,
    to put them across a border, for instance.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        indirect: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        cut: Callable[[Buffer, int], list[Buffer]] | None = None,
        place: Callable[[int], int] | None = None,
    ) -> None:
        self._cut = cut or cut_after_header
        self._place = place
        self.driver = driver
        self.memory = driver.memory
        self.indirect = indirect
        self.timeout = timeout
        self.uid = self.gid = self.pid = 0  #: of the process that calls
        self._unique = 0
        self._by_head: dict[int, _Pending] = {}
        self._replies: dict[int, tuple[int, bytes]] = {}  # unique -> (error, payload)

    # The two halves of a call.

    def submit(
        self,
        opcode: int,
        nodeid: int,
        body: bytes = b"",
        *,
        reply_size: int = 0,
        has_reply: bool = True,
        kick: bool = True,
        header_length: int | None = None,
        extensions: bytes = b"",
    ) -> int:
        """Send one request and return its unique. IndexError when the queue has no room.

        ``reply_size``: bytes of room after the reply header. ``kick`` False: published, no notification yet.
        ``header_length``: what the header says the request's length is, when it should lie. ``extensions``
        follow the body and are counted in the header, in units of 8 bytes.
        """
        self._unique += 2  # the lowest bit marks interrupts in Linux
        body += extensions
        length = abi.IN_HEADER.size + len(body)
        told = length if header_length is None else header_length
        header = abi.IN_HEADER.pack(
            told, opcode, self._unique, nodeid, self.uid, self.gid, self.pid, len(extensions) // 8, 0
        )
        readable = self._buffer(length)
        self.memory.write(readable.gpa, header + body)
        writable = None
        if has_reply:
            size = abi.OUT_HEADER.size + reply_size
            writable = self._buffer(size)
        try:
            head = self.driver.add(
                self._cut(readable, abi.IN_HEADER.size),
                [] if writable is None else self._cut(writable, abi.OUT_HEADER.size),
                indirect=self.indirect,
            )
        except IndexError:
            self._free(_Pending(self._unique, opcode, readable, writable))
            raise
        self._by_head[head] = _Pending(self._unique, opcode, readable, writable)
        self.driver.publish()
        if kick:
            self.driver.kick()
        return self._unique

    def _buffer(self, length: int) -> Buffer:
        return Buffer((self._place or self.memory.allocate)(length), length)

    def _free(self, pending: _Pending) -> None:
        if self._place is not None:
            return
        self.memory.free(pending.readable.gpa)
        if pending.writable is not None:
            self.memory.free(pending.writable.gpa)

    def _complete(self, used: Used) -> int:
        pending = self._by_head.pop(used.head)
        name = _name(pending.opcode)
        try:
            if pending.writable is None:
                if used.written:
                    raise BadReply(f"{name} has no reply, the device says it wrote {used.written} bytes")
                self._replies[pending.unique] = (0, b"")
                return pending.unique
            if not abi.OUT_HEADER.size <= used.written <= pending.writable.length:
                raise BadReply(f"{name}: used length {used.written} of {pending.writable.length} writable")
            reply = self.memory.read(pending.writable.gpa, used.written)
        finally:
            self._free(pending)
        length, error, unique = abi.OUT_HEADER.unpack_from(reply)
        if unique != pending.unique:
            raise BadReply(f"{name}: reply to unique {unique}, expected {pending.unique}")
        if length != used.written:
            raise BadReply(f"{name}: reply of {length} bytes, used length {used.written}")
        if error > 0 or error <= -4096 or (error and length != abi.OUT_HEADER.size):
            raise BadReply(f"{name}: error {error} in a reply of {length} bytes")
        self._replies[pending.unique] = (error, reply[abi.OUT_HEADER.size :])
        return pending.unique

    def wait(self, unique: int, *, timeout: float | None = None) -> bytes:
        """The payload of the reply to ``unique``; OSError for an error, TimeoutError when it is late."""
        while unique not in self._replies:
            self.wait_any(timeout=timeout)
        error, payload = self._replies.pop(unique)
        if error:
            raise OSError(-error, os.strerror(-error))
        return payload

    def wait_any(self, *, timeout: float | None = None) -> int:
        """Wait for the next completion, whichever it is; returns its unique, to be given to ``wait``."""
        return self._complete(self.driver.wait_used(self.timeout if timeout is None else timeout))

    @property
    def in_flight(self) -> int:
        """Requests that have not come back."""
        return len(self._by_head)

    def call(self, opcode: int, nodeid: int, body: bytes = b"", *, reply_size: int = 0) -> bytes:
        """submit and wait."""
        return self.wait(self.submit(opcode, nodeid, body, reply_size=reply_size))

    # Calls by name.

    def init(self, *, major: int = 7, minor: int = 38, flags: int = INIT_FLAGS) -> InitReply:
        """FUSE_INIT; comes first. ``flags`` beyond 32 bits need INIT_EXT among them."""
        body = abi.INIT_IN.pack(major, minor, 1 << 20, flags & 0xFFFFFFFF, flags >> 32)
        payload = self.call(Opcode.INIT, 0, body, reply_size=abi.INIT_OUT.size)
        if len(payload) != abi.INIT_OUT.size:
            raise BadReply(f"INIT: payload of {len(payload)} bytes, expected {abi.INIT_OUT.size}")
        return InitReply(*abi.INIT_OUT.unpack(payload))

    def lookup(self, parent: int, name: bytes) -> Entry:
        return abi.parse_entry(self.call(Opcode.LOOKUP, parent, name + b"\0", reply_size=abi.ENTRY_OUT_SIZE))

    def walk(self, path: bytes) -> Entry:
        """LOOKUP of each part of a path from the root."""
        nodeid = abi.ROOT_NODEID
        parts = [part for part in path.split(b"/") if part]
        entry = self.lookup(nodeid, parts[0] if parts else b".")
        for part in parts[1:]:
            entry = self.lookup(entry.nodeid, part)
        return entry

    def getattr(self, nodeid: int) -> Attr:
        body = abi.GETATTR_IN.pack(0, 0)
        payload = self.call(Opcode.GETATTR, nodeid, body, reply_size=abi.ATTR_OUT_SIZE)
        return Attr(*abi.ATTR.unpack_from(payload, abi.ATTR_OUT_HEAD.size))

    def readlink(self, nodeid: int) -> bytes:
        return self.call(Opcode.READLINK, nodeid, reply_size=4096)

    def open(self, nodeid: int, flags: int = os.O_RDONLY) -> tuple[int, int]:
        """(fh, open_flags); OSError ENOSYS when the device wants no opens."""
        payload = self.call(Opcode.OPEN, nodeid, abi.OPEN_IN.pack(flags, 0), reply_size=abi.OPEN_OUT.size)
        fh, open_flags = abi.OPEN_OUT.unpack(payload)
        return int(fh), int(open_flags)

    def submit_read(self, nodeid: int, offset: int, size: int, *, fh: int = 0, kick: bool = True) -> int:
        """One READ, not waited for."""
        body = abi.READ_IN.pack(fh, offset, size, 0, 0, 0)
        return self.submit(Opcode.READ, nodeid, body, reply_size=size, kick=kick)

    def read(self, nodeid: int, offset: int, size: int, *, fh: int = 0) -> bytes:
        """One READ; short at the end of the file."""
        return self.wait(self.submit_read(nodeid, offset, size, fh=fh))

    def read_file(self, nodeid: int, size: int, *, piece: int = 128 << 10) -> bytes:
        """The whole file, ``piece`` bytes a request."""
        return b"".join(
            self.read(nodeid, offset, min(piece, size - offset)) for offset in range(0, size, piece)
        )

    def readdir(self, nodeid: int, *, plus: bool = True, fh: int = 0, size: int = 4096) -> list[Dirent]:
        """Every entry of a directory, by as many READDIRPLUS (or READDIR) as it takes."""
        opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
        dirents: list[Dirent] = []
        offset = 0
        while True:
            payload = self.call(opcode, nodeid, abi.READ_IN.pack(fh, offset, size, 0, 0, 0), reply_size=size)
            if not payload:
                return dirents
            dirents += abi.parse_dirents(payload, plus=plus)
            offset = dirents[-1].off

    def statfs(self, nodeid: int = abi.ROOT_NODEID) -> tuple[int, ...]:
        """blocks, bfree, bavail, files, ffree, bsize, namelen, frsize."""
        statfs: tuple[int, ...] = abi.STATFS_OUT.unpack(
            self.call(Opcode.STATFS, nodeid, reply_size=abi.STATFS_OUT.size)
        )
        return statfs

    def getxattr(self, nodeid: int, name: bytes, size: int = 65536) -> bytes:
        """The value; OSError ENODATA without one, ERANGE when ``size`` is too small."""
        body = abi.GETXATTR_IN.pack(size) + name + b"\0"
        return self.call(Opcode.GETXATTR, nodeid, body, reply_size=size)

    def listxattr(self, nodeid: int, size: int = 65536) -> list[bytes]:
        payload = self.call(Opcode.LISTXATTR, nodeid, abi.GETXATTR_IN.pack(size), reply_size=size)
        return payload.split(b"\0")[:-1]

    def lseek(self, nodeid: int, offset: int, whence: int, *, fh: int = 0) -> int:
        body = abi.LSEEK_IN.pack(fh, offset, whence)
        (result,) = abi.LSEEK_OUT.unpack(self.call(Opcode.LSEEK, nodeid, body, reply_size=abi.LSEEK_OUT.size))
        return int(result)

    def forget(self, nodeid: int, nlookup: int = 1) -> None:
        """FORGET has no reply; waits until the device has returned the chain."""
        body = abi.FORGET_IN.pack(nlookup)
        self.wait(self.submit(Opcode.FORGET, nodeid, body, has_reply=False))

    def batch_forget(self, forgets: Sequence[tuple[int, int]]) -> None:
        """BATCH_FORGET of (nodeid, nlookup); waits until the device has returned the chain."""
        body = abi.BATCH_FORGET_IN.pack(len(forgets))
        body += b"".join(abi.FORGET_ONE.pack(nodeid, nlookup) for nodeid, nlookup in forgets)
        self.wait(self.submit(Opcode.BATCH_FORGET, 0, body, has_reply=False))

    def destroy(self) -> None:
        self.call(Opcode.DESTROY, 0)


def cut_after_header(buffer: Buffer, at: int) -> list[Buffer]:
    """Two descriptors: the header, and what follows it."""
    if buffer.length <= at:
        return [buffer]
    return [Buffer(buffer.gpa, at), Buffer(buffer.gpa + at, buffer.length - at)]


def cut_to_pieces(length: int) -> Callable[[Buffer, int], list[Buffer]]:
    """A ``cut`` that makes descriptors of ``length`` bytes, whatever lies in them."""

    def cut(buffer: Buffer, at: int) -> list[Buffer]:
        end = buffer.gpa + buffer.length
        return [Buffer(gpa, min(length, end - gpa)) for gpa in range(buffer.gpa, end, length)]

    return cut


def _name(opcode: int) -> str:
    return opcode.name if isinstance(opcode, Opcode) else f"opcode {opcode}"
