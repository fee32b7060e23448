"""Where the agent of a cache directory is found: CACHE_DIR/.agent has its lock, its socket and its log.

The lock (flock) is held by the one agent of the directory as long as it lives, so two that start at once
become one. The socket appears when it already listens, and is removed before the lock is let go.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = ".agent"
SOCKET, LOCK, LOG = "socket", "lock", "agent.log"
BACKLOG = 128


class Peer(NamedTuple):
    """Who is at the other end of a connection."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        return cls(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))

    @property
    def is_one_of_us(self) -> bool:
        """The superuser, or who runs this process. Nobody else may fill our caches, or read by our hands."""
        return self.uid in (0, os.geteuid())


def connect(cache_dir: Path) -> socket.socket:
    """A connection to the agent of a directory. Raises OSError: FileNotFoundError, ConnectionRefusedError
    when there is none; PermissionError when who listens there is none of us; BlockingIOError when it is
    not getting on with those who wait."""
    folder = os.open(cache_dir / FOLDER, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.connect(f"/proc/self/fd/{folder}/{SOCKET}")  # whose path may be longer than an address
        if not Peer.of(sock).is_one_of_us:
            raise PermissionError(f"{cache_dir / FOLDER / SOCKET} belongs to another user's process")
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock


class AgentPlace:
    """The agent's own view: `claim` it, `listen`, `close`."""

    def __init__(self, cache_dir: Path) -> None:
        self.folder = cache_dir / FOLDER
        self._lock_fd = -1
        self._has_socket = False

    def claim(self) -> bool:
        """Become the agent of the directory; False: it has one. Makes the directory. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())  # for people: it proves nothing
        return True

    def listen(self) -> socket.socket:
        """The socket, in place and listening. After `claim`. Raises OSError."""
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            temporary = f"{SOCKET}.new"
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            sock.bind(f"/proc/self/fd/{folder}/{temporary}")
            os.chmod(temporary, 0o600, dir_fd=folder)
            sock.listen(BACKLOG)
            os.rename(temporary, SOCKET, src_dir_fd=folder, dst_dir_fd=folder)
            self._has_socket = True
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(folder)
        return sock

    def close(self) -> None:
        """Take the socket away, and let go of the lock."""
        if self._has_socket:
            with suppress(FileNotFoundError):
                (self.folder / SOCKET).unlink()
            self._has_socket = False
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
