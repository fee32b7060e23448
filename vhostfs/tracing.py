"""Recording the first accesses to a mounted image, and the trace that comes of it.

    recorder = TraceRecorder(device, "/", image, bootstrap)    # recording begins
    trace = recorder.snapshot()    # at any time
    recorder.stop()                # before the umount

All of it may block for a moment: call it in a thread, or where nobody waits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

from native.dataplane import Device, TraceLog
from rafs.image import Image
from rafs.trace.errors import TraceError
from rafs.trace.format import MAX_FILE_SIZE, Trace, pack_trace, parse_accesses, parse_trace
from vhostfs.runtime import os_error_text

log = logging.getLogger(__name__)


class TraceRecorder:
    """See the module; `bootstrap` is the image's file. Raises OSError where no image is mounted at `path`."""

    def __init__(self, device: Device, path: str, image: Image, bootstrap: Path) -> None:
        self._device = device
        self._path = path
        self._image = image
        self._bootstrap = bootstrap
        self._log = TraceLog(image)
        self._started_at_s = int(time.time())
        try:
            device.set_trace(path, self._log)
        except BaseException:
            self._log.close()
            raise

    def snapshot(self) -> Trace:
        """What was recorded so far. Raises OSError when the bootstrap cannot be read."""
        return Trace(
            blobs=tuple(self._image.blob(index).blob_id for index in range(self._image.blob_count)),
            accesses=parse_accesses(self._log.read()),
            image_sha256=sha256_of(self._bootstrap),
            dropped=self._log.dropped,
            started_at_s=self._started_at_s,
            duration_ns=self._log.duration_ns,
        )

    def packed(self) -> bytes:
        """The snapshot as a file."""
        return pack_trace(self.snapshot())

    def stop(self) -> None:
        """Record no more."""
        self._device.set_trace(self._path, None)
        self.drop()

    def drop(self) -> None:
        """Let go of what was recorded. The image is served no more."""
        self._log.close()


AUTO = "auto"


def trace_path(text: str, bootstrap: Path) -> Path:
    """The file that `text` names; "auto": the one beside the bootstrap, which is named after it."""
    return bootstrap.with_name(f"{bootstrap.name}.trace") if text == AUTO else Path(text)


def find_trace(text: str, bootstrap: Path) -> Trace | None:
    """The trace that `text` stands for; None for "", and for "auto" where there is none.

    Raises OSError, TraceError. Blocks.
    """
    if not text:
        return None
    try:
        return read_trace(trace_path(text, bootstrap))
    except FileNotFoundError:
        if text == AUTO:
            return None
        raise


def read_trace(path: Path) -> Trace:
    """The trace in a file. Raises OSError, TraceError naming it. Blocks."""
    with path.open("rb") as file:
        content = file.read(MAX_FILE_SIZE + 1)
    try:
        return parse_trace(content)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def write_trace(path: Path, trace: Trace) -> None:
    """Put a trace into a file; who reads it sees all of it or what was there before. Blocks."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        temporary.write_bytes(pack_trace(trace))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_trace(recorder: TraceRecorder, path: Path) -> None:
    """End a recording and write what it is, or say in the log why that cannot be done."""
    try:
        write_trace(path, recorder.snapshot())
    except (OSError, TraceError) as error:
        log.error("the trace is lost: %s", os_error_text(error) if isinstance(error, OSError) else error)
    finally:
        recorder.stop()


def sha256_of(path: Path) -> bytes:
    """The SHA-256 of a bootstrap, by which a trace tells whose it is. Raises OSError; blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
