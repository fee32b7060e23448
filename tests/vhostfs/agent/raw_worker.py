"""A worker that says and writes what a test wants. Its calls block: use them in threads."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from native.dataplane import ChunkLink, ChunkStore
from rafs.backend.config import LocalFs, backend_of, encode_backend
from rafs.image import Image
from rafs.limits import NO_LIMITS
from tests.vhostfs.conftest import BuiltImage
from vhostfs.agent import protocol
from vhostfs.agent.bootstrap import pack_chunks
from vhostfs.agent.place import connect
from vhostfs.agent.protocol import VERSION, BlobEntry, Hello, Message, OpenBlob, Reply

TIMEOUT_S = 10
#: where head, tail and records of a ring are (native/c/upcall.c)
HEAD, TAIL, RECORDS = 0, 64, 128


class RawWorker:
    """Connected; use it in a with block. `rings` are real."""

    def __init__(self, cache_dir: Path) -> None:
        self.sock = connect(cache_dir)
        self.sock.settimeout(TIMEOUT_S)
        self.store = ChunkStore()
        self.rings = ChunkLink(self.store)
        self.upcalls = mmap.mmap(self.rings.fds.upcalls, 0)
        # Nobody reads these: those of `rings` have a thread that does.
        self._completions_fd = os.memfd_create("completions", os.MFD_ALLOW_SEALING)
        os.ftruncate(self._completions_fd, os.fstat(self.rings.fds.completions).st_size)
        fcntl.fcntl(self._completions_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.completions = mmap.mmap(self._completions_fd, 0)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.sock, [data], fds)

    def say(self, message: Message, fds: Sequence[int] = ()) -> None:
        self.send(protocol.encode(message), fds)

    def hear(self) -> tuple[Reply, list[int]]:
        """The next reply; its descriptors are the caller's. Raises EOFError when we were hung up on."""
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, protocol.MAX_MESSAGE, protocol.MAX_FDS)
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            raise EOFError
        return protocol.decode_reply(data, len(fds)), fds

    def ask(self, message: Message, fds: Sequence[int] = ()) -> Reply:
        self.say(message, fds)
        reply, received = self.hear()
        for fd in received:
            os.close(fd)
        return reply

    def greet(self) -> None:
        fds = self.rings.fds._replace(completions=self._completions_fd)
        assert isinstance(self.ask(Hello(VERSION), fds), protocol.Welcome)

    def open(self, image: BuiltImage, handle: int = 1) -> Reply:
        """Have the image's only blob opened."""
        bootstrap = Image(image.bootstrap)
        record = bootstrap.blob(0)
        told, chunks_fd = pack_chunks(record, bootstrap.bootstrap_chunks(0))
        bootstrap.close()
        backend = encode_backend(backend_of("localfs", LocalFs(dir=str(image.blob_dir))))
        folder = os.open(image.blob_dir, os.O_PATH)
        try:
            files = [str(image.blob_dir)]
            message = OpenBlob(handle, handle, backend, {}, files, BlobEntry.of(record), told, NO_LIMITS)
            return self.ask(message, [folder, *([chunks_fd] if told else [])])
        finally:
            os.close(folder)
            if told:
                os.close(chunks_fd)

    def push(self, *records: tuple[int, int, int], tail: int | None = None) -> None:
        """Put records of the upcall ring, (handle, first, count), and ring."""
        at = struct.unpack_from("<I", self.upcalls, TAIL)[0]
        for record in records:
            struct.pack_into("<4I", self.upcalls, RECORDS + 16 * (at % 4096), *record, 0)
            at += 1
        struct.pack_into("<I", self.upcalls, TAIL, at if tail is None else tail)
        os.eventfd_write(self.rings.fds.event, 1)

    def is_hung_up_on(self) -> bool:
        """Wait for that; False: we are listened to still."""
        try:
            while True:
                self.hear()
        except EOFError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.sock.close()
        with suppress(BufferError):
            self.upcalls.close()
            self.completions.close()
        os.close(self._completions_fd)
        self.rings.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
