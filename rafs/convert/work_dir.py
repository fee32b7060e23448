"""The working directory of conversions: what is remembered of layers, scratch space, and how both go away.

    layers/KEY/     of a layer and the options it was converted with; see layer.py
    scratch-*       of a conversion that runs, or was killed

A layer that no conversion has asked for in KEEP_S is forgotten, scratch space of the dead after a day.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from rafs.errors import BuildError

KEEP_S = 90 * 86400.0
KEEP_SCRATCH_S = 86400.0
_LOCK_PAUSE_S = 0.2
_OPEN_TRIES = 10
_SCRATCH = "scratch-"


class WorkDir:
    """Several conversions may use one at the same time."""

    def __init__(self, folder: Path) -> None:
        """Raises BuildError when the directory cannot be made."""
        self._folder = folder
        self._layers = folder / "layers"
        try:
            self._layers.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(error) from error

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new empty directory for the time of the block."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=_SCRATCH) as folder:
            yield Path(folder)

    @asynccontextmanager
    async def layer(self, key: str) -> AsyncIterator[Path]:
        """The folder of a layer, for us alone; another conversion that has it is waited for."""
        folder = self._layers / key
        fd = _open_lock(folder)
        try:
            while not _is_locked(fd):
                await asyncio.sleep(_LOCK_PAUSE_S)
                if os.fstat(fd).st_nlink == 0:  # a sweep has taken the folder in between
                    os.close(fd)
                    fd = _open_lock(folder)
            os.utime(fd)
            yield folder
        finally:
            os.close(fd)

    def sweep(self, now: float | None = None) -> None:
        """Forget what nobody has used for long."""
        now = time.time() if now is None else now
        for folder in self._layers.iterdir():
            if _age(folder / "lock", now) > KEEP_S:
                fd = _open_lock(folder)
                if _is_locked(fd):
                    shutil.rmtree(folder, ignore_errors=True)
                os.close(fd)
        for folder in self._folder.glob(f"{_SCRATCH}*"):
            if _age(folder, now) > KEEP_SCRATCH_S:
                shutil.rmtree(folder, ignore_errors=True)


def _open_lock(folder: Path) -> int:
    """A descriptor of the folder's lock, not locked yet. Raises BuildError."""
    for _ in range(_OPEN_TRIES):
        try:
            folder.mkdir(exist_ok=True)
            return os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError as gone:  # a sweep has taken the folder in between
            error: OSError = gone
        except OSError as refused:
            raise _unusable(refused) from refused
    raise _unusable(error)


def _is_locked(fd: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0  # else it is the lock of a folder that a sweep has taken


def _age(path: Path, now: float) -> float:
    with suppress(FileNotFoundError):
        return now - path.stat().st_mtime
    return 0.0


def _unusable(error: OSError) -> BuildError:
    return BuildError(f"cannot use the working directory: {error.filename!r}: {error.strerror}")
