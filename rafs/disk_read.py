"""Reads a cache file as it lies on the disk: past the page cache, where the file system can do that.

What a check reads through the page cache it finds right although the disk has lost it, and it pushes out what
guests read. Blocks.
"""

from __future__ import annotations

import errno
import os
from mmap import mmap
from pathlib import Path

from rafs.unsynced import is_same_file

_ALIGNMENT = 4096


class DiskFile:
    """A file, open for reading past the page cache; tmpfs and the like are read as usual.

    `same_as`: a descriptor of the file that is meant. Raises OSError; FileNotFoundError where `path`
    leads to another one.
    """

    def __init__(self, path: Path, *, same_as: int | None = None) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._fd = os.open(path, flags)
        if same_as is not None and not is_same_file(same_as, path):
            self.close()
            raise FileNotFoundError(errno.ENOENT, "it was removed, or made anew", str(path))

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer at the end of the file. Raises OSError."""
        start = offset - offset % _ALIGNMENT
        length = offset + size + -(offset + size) % _ALIGNMENT - start
        with mmap(-1, length) as buffer:  # which is aligned
            done = 0
            while done < length:
                with memoryview(buffer) as view, view[done:] as rest:
                    count = os.preadv(self._fd, [rest], start + done)
                done += count
                if not count or done % _ALIGNMENT:  # the end
                    break
            return buffer[offset - start : min(offset - start + size, done)]

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> DiskFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
