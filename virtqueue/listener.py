"""``Listener``: where front-ends connect: a socket at a path, or a listening descriptor that we inherited.

The path appears at once with mode 0600 and accepts connections from its first instant: the socket is made
under a private name beside it, and linked or renamed into place when it already listens. A socket that
nobody listens on any more (its server was killed) is replaced; a live one, or what is no socket, is refused.
The folder is kept open, so relative paths and a later chdir do no harm.
"""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

# One front-end at a time, but a VMM that restarts may connect while the old connection is being cleared away.
BACKLOG = 8


class Listener:
    """A listening Unix stream socket, non-blocking. Closing it removes the path that it made."""

    def __init__(self, sock: socket.socket, *, path: str = "", dir_fd: int = -1) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.path = path
        self._dir_fd = dir_fd
        self._inode = _inode(Path(path).name, dir_fd) if path else None

    @classmethod
    def bind(cls, path: str, *, backlog: int = BACKLOG) -> "Listener":
        """Listen at ``path``. OSError says what stands in the way: EADDRINUSE for a live server.

        ``backlog``: connections that may wait to be accepted.
        """
        name = Path(path).name
        if not name:
            raise OSError(errno.EINVAL, "is no path for a socket", path)
        dir_fd = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        private = f".{os.urandom(8).hex()}.sock"
        try:
            sock.bind(_address(private, dir_fd))
            try:
                os.chmod(private, 0o600, dir_fd=dir_fd)
                sock.listen(backlog)  # not before: until now nobody could connect
                _put_in_place(private, name, path, dir_fd)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(private, dir_fd=dir_fd)
            return cls(sock, path=path, dir_fd=dir_fd)
        except BaseException:
            sock.close()
            os.close(dir_fd)
            raise

    @classmethod
    def adopt(cls, fd: int) -> "Listener":
        """Take over an inherited descriptor. OSError unless it is a listening Unix stream socket."""
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise OSError(
                error.errno, f"descriptor {fd} is no open socket: {os.strerror(error.errno or 0)}"
            ) from None
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listens:
            sock.detach()
            raise OSError(errno.EINVAL, f"descriptor {fd} is not a listening Unix stream socket")
        return cls(sock)

    def unlink(self) -> None:
        """Remove the path that ``bind`` made, unless somebody has put another file there meanwhile."""
        if self._dir_fd >= 0:
            name = Path(self.path).name
            with contextlib.suppress(OSError):
                if _inode(name, self._dir_fd) == self._inode:
                    os.unlink(name, dir_fd=self._dir_fd)

    def close(self) -> None:
        """Stop listening, and ``unlink``."""
        self.sock.close()
        self.unlink()
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
            self._dir_fd = -1


def _inode(name: str, dir_fd: int) -> tuple[int, int]:
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    return found.st_dev, found.st_ino


def _address(name: str, dir_fd: int) -> str:
    # Relative to the folder, whose own path may already fill the 107 bytes that a socket address has.
    return f"/proc/self/fd/{dir_fd}/{name}"


def _put_in_place(private: str, name: str, path: str, dir_fd: int) -> None:
    try:
        os.link(private, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
    except FileExistsError:
        _check_stale(name, path, dir_fd)
        os.rename(private, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def _check_stale(name: str, path: str, dir_fd: int) -> None:
    """OSError unless ``name`` is a socket that nobody listens on, or is gone by now."""
    try:
        mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "exists and is not a socket; remove it or choose another path", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(_address(name, dir_fd))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # somebody listens, and has connections waiting
    raise OSError(errno.EADDRINUSE, "another process listens there; stop it or choose another path", path)
