"""The marker that makes READY bits honest about power loss: `<id>.blob.data.unsynced`.

A READY bit is set when its chunk is in the page cache. That survives any death of the process, not of the
machine: after power loss the bit may be on the disk and the data not (spec 6.3). Instead of an fdatasync
before every bit there is a marker file, whose content is the boot id of the machine:

- It exists, and is durable, before the first READY bit of a run is set, and is removed after an fdatasync of
  the data file. So bits without a marker are true after whatever happened.
- A marker of this boot: some process died or is running; the page cache is whole, the bits are true.
- A marker of another boot: the machine went down in between. The bits are in doubt: they are cleared before
  anyone may look at them, and each chunk is checked by its digest against the data file when it is next
  wanted (or fetched again, where the image has no digests).

Processes share the marker by flock: a shared lock is held by each process that may set bits, the exclusive
lock is needed to remove the marker or to clear bits in doubt. Each race, and why it is harmless:

- *One removes while another is about to set its first bit.* The setter's `hold` waits for the exclusive lock
  to go, finds that the path is no longer the file it locked, and makes a new marker.
- *Two want to remove at once.* flock drops the old lock before it takes the new one, so either both fail
  (each counts as "another one is using it"; the last to leave removes it) or one succeeds, and the other one
  finds its file gone from the path and leaves it at that.
- *A process is killed between another one's fdatasync and its removal of the marker.* The fdatasync is done
  under the exclusive lock: nobody can set bits in between, and it covers the file's pages of all writers.
- *Two processes start after power loss.* Opening a blob is serialised by the lock on the data file
  (`cache.py`), the marker is rewritten in the same exclusive section in which the bits are cleared; the
  second one reads this boot's id. A crash in between leaves the old id, and it is done again.
- *The machine stops while the marker is being made.* Each `hold` makes content and name durable before it
  returns, so an empty marker means that no bit was set under it.
- *The kernel cannot write the data back.* fdatasync says so once, and the pages may be dropped at any time:
  the content becomes a word that is nobody's boot id, so the next start treats the bits as in doubt.

Not covered: bits that other programs set (nydusd has no marker; its cache is believed as it believes it).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

from rafs.errors import cache_error

log = logging.getLogger(__name__)

BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
_WRITEBACK_FAILED = b"writeback-failed"
#: the content is padded to this, so that rewriting it never goes through an empty file
_CONTENT_SIZE = 64


def read_boot_id() -> str:
    """Return the id of this boot of the machine. Raises CacheError where /proc is not mounted."""
    try:
        return BOOT_ID_PATH.read_text().strip()
    except OSError as error:
        raise cache_error(f"cannot read {BOOT_ID_PATH} (is /proc mounted?)", error) from error


def is_same_file(fd: int, path: Path) -> bool:
    """Whether `path` still leads to the file that is open as `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def sync_directory(path: Path) -> None:
    """Make creations, renames and removals in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class UnsyncedMarker:
    """This process's part in the marker of one blob. Not thread-safe; raises OSError.

    `join` at open, `hold` before a READY bit, `release` when nothing is being written.
    """

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id.encode()
        self._fd: int | None = None

    @property
    def is_held(self) -> bool:
        return self._fd is not None

    def join(self, distrust: Callable[[], None]) -> None:
        """Find out whether the READY bits on disk are true; call `distrust` to clear them if not.

        The caller holds the lock on the data file and has not looked at the bits yet. `distrust` returns
        after the cleared bits are durable.
        """
        fd = self._open_locked(create=False)
        if fd is None:
            return
        self._fd = fd
        content = self._content()
        if not content:
            self.drop()
        elif content == _WRITEBACK_FAILED:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # its bits are as good as the page cache of the process that lives on them
                fcntl.flock(fd, fcntl.LOCK_SH)
                log.warning("%s: an earlier write to the disk failed; a running process uses it", self._path)
            else:
                self._start_over(distrust)
        elif content != self._boot_id:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._start_over(distrust)

    def _start_over(self, distrust: Callable[[], None]) -> None:
        """Under the exclusive lock, unless another process has done it before we got that: clear, rewrite."""
        if not is_same_file(self._fd_held, self._path):
            self.drop()
            self.join(distrust)
            return
        if self._content() != self._boot_id:
            distrust()
            self._write(self._boot_id)
        fcntl.flock(self._fd_held, fcntl.LOCK_SH)

    def hold(self) -> None:
        """Return once a durable marker exists that nobody can remove before `release`."""
        if self._fd is not None:
            return
        self._fd = self._open_locked(create=True)
        try:
            if not self._content():
                self._write(self._boot_id)
            # also when another process wrote it: that one may not have come so far
            os.fsync(self._fd_held)
            sync_directory(self._path.parent)
        except OSError:
            self.drop()
            raise

    def release(self, sync: Callable[[], None]) -> bool:
        """Let go. When no other process holds the marker, call `sync` and remove it; return whether so.

        The caller is sure that this process sets no READY bit meanwhile. When `sync` fails, the marker
        stays and says so, and its OSError is passed on.
        """
        if self._fd is None:
            self._fd = self._open_locked(create=False, wait=False)
        if self._fd is None:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_same_file(self._fd, self._path) or self._content() not in (self._boot_id, b""):
                return False
            try:
                sync()
            except OSError:
                self.spoil()
                raise
            self._path.unlink()
            return True
        except BlockingIOError:
            return False
        finally:
            self.drop()

    def spoil(self) -> None:
        """The data could not be written back: have the READY bits distrusted at the next start."""
        if self._fd is not None:
            self._write(_WRITEBACK_FAILED)

    def drop(self) -> None:
        """Let go and leave the marker as it is."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open_locked(self, *, create: bool, wait: bool = True) -> int | None:
        """Open the marker and lock it shared; None when it does not exist (or is locked, with wait=False)."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        while True:
            try:
                fd = os.open(self._path, flags, 0o600)
            except FileNotFoundError:
                return None
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
                if is_same_file(fd, self._path):
                    return fd
            except BlockingIOError:
                os.close(fd)
                return None
            except OSError:
                os.close(fd)
                raise
            os.close(fd)

    @property
    def _fd_held(self) -> int:
        assert self._fd is not None
        return self._fd

    def _content(self) -> bytes:
        return os.pread(self._fd_held, _CONTENT_SIZE, 0).strip()

    def _write(self, content: bytes) -> None:
        if os.pwrite(self._fd_held, content.ljust(_CONTENT_SIZE), 0) != _CONTENT_SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._fd_held)
