"""Output files that appear whole or not at all.

A file is written under a temporary name next to its place, made durable, and only then renamed. Whatever
ends the build before that leaves the final name untouched and, unless the process is killed outright, no
temporary file either.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType

from rafs.build.errors import BuildError

#: a killed build may leave files of this prefix; they are never read and may be deleted
TEMPORARY_PREFIX = ".vhostfs-build-"


class PendingFile:
    """A file on its way: `with PendingFile(folder, "blob") as file: file.write(...); file.commit(name)`.

    Raises BuildError, naming the file, when it cannot be created, written or renamed.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._what = what
        self._folder = folder
        self._path = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        self._fd = -1
        self._is_committed = False

    def __enter__(self) -> PendingFile:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failure(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if not self._is_committed:
            self._path.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> BuildError:
        return BuildError(f"cannot write the {self._what} in {str(self._folder)!r}: {error.strerror}")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise self._failure(error) from error

    def commit(self, name: str) -> Path:
        """Make the content durable and give it its final name in the folder; return the path."""
        final = self._folder / name
        try:
            os.fsync(self._fd)
            self._path.rename(final)
            self._is_committed = True
            folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder_fd)
            finally:
                os.close(folder_fd)
        except OSError as error:
            raise self._failure(error) from error
        return final
