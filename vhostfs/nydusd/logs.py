"""Log lines for a reader that may be slow, gone, or choke on what is no line (contract 1.10, 2.1, gotcha 14).

Kata reads both streams through pipes, as UTF-8 lines of less than 64 KiB, and may stop reading. So a line is
UTF-8 without control characters, at most MAX_LINE bytes, written whole or not at all, and never waited for:
what finds the pipe full is dropped, counted, and told of later. The same goes for all that the interpreter
prints (`sys.stdout`, `sys.stderr`).
"""

from __future__ import annotations

import io
import logging
import os
import select
import socket
import stat
import sys
import threading
from collections import deque
from pathlib import Path

TRACE = 5
#: the names that nydusd has for levels; "off" is the API's only
LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
#: a pipe takes PIPE_BUF (4096) bytes as a whole or not at all; there is room for a word on lost lines
MAX_LINE = 4000

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in b"\t\n"}


class LineSink:
    """Writes lines to a descriptor without waiting. Any thread may call it. The descriptor stays open."""

    def __init__(self, fd: int) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._fd = self._given_fd = fd
        self._polled = False
        self.dropped = 0
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            # An open file of our own: O_NONBLOCK on this one would be the parent's too.
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = os.open(f"/proc/self/fd/{fd}", flags)
            except OSError:
                self._polled = True

    def write(self, text: str) -> None:
        """Write the lines of `text`; a last newline is added."""
        with self._lock:
            for line in text.rstrip("\n").split("\n"):
                lost = f"{self.dropped} lines were not read in time\n".encode() if self.dropped else b""
                self.dropped = 0 if self._write_nowait(lost + encode_line(line)) else self.dropped + 1

    def close(self) -> None:
        """Close what was opened here; not the descriptor that was given."""
        if self._socket is not None:
            self._socket.close()
        elif self._fd != self._given_fd:
            os.close(self._fd)

    def _write_nowait(self, line: bytes) -> bool:
        try:
            if self._socket is not None:
                return self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(line)
            if self._polled and not select.select([], [self._fd], [], 0)[1]:
                return False
            return os.write(self._fd, line) == len(line)
        except (OSError, ValueError):  # full, or nobody reads any more
            return False


def encode_line(line: str) -> bytes:
    """One line with its newline: valid UTF-8, no control characters, at most MAX_LINE bytes."""
    data = line.translate(_CONTROL).encode("utf-8", "backslashreplace")
    if len(data) >= MAX_LINE:
        data = data[: MAX_LINE - 4].decode("utf-8", "ignore").encode() + b"..."
    return data + b"\n"


class SinkHandler(logging.Handler):
    """Records to a LineSink."""

    def __init__(self, sink: LineSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.write(self.format(record))
        except Exception:
            self.handleError(record)


class ErrorHistory(logging.Handler):
    """The last errors, for the API: at most `max_errors` lines of `max_size` bytes together."""

    def __init__(self, *, max_errors: int = 500, max_size: int = 50 << 10) -> None:
        super().__init__(logging.ERROR)
        self.max_errors, self.max_size = max_errors, max_size
        self.total_errors = self.total_size = 0
        self._kept: deque[str] = deque()
        self._kept_size = 0

    def emit(self, record: logging.LogRecord) -> None:
        line = encode_line(self.format(record)).decode().rstrip("\n")
        size = len(line)
        self._kept.append(line)
        self._kept_size += size
        self.total_errors += 1
        self.total_size += size
        while len(self._kept) > self.max_errors or self._kept_size > self.max_size:
            self._kept_size -= len(self._kept.popleft())

    def snapshot(self) -> dict[str, object]:
        """As GET /api/v1/daemon/events answers."""
        return {
            "max_errors": self.max_errors,
            "total_errors": self.total_errors,
            "max_size": self.max_size,
            "total_size": self.total_size,
            "errors": list(self._kept),
        }


class _Stream(io.TextIOBase):
    """Stands in for sys.stdout and sys.stderr: pieces of text become lines of a sink."""

    def __init__(self, sink: LineSink) -> None:
        self._sink = sink
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._sink.write(line)
        return len(text)


def install(level: str, file: Path | None, rotation_mib: int) -> ErrorHistory:
    """Set up logging for a daemon, once. Raises OSError when the file cannot be written.

    `rotation_mib` 0: the file is not rotated. Its folder is made, and `.log` added to a name without suffix.
    """
    logging.addLevelName(TRACE, "TRACE")
    logging.addLevelName(logging.WARNING, "WARN")
    logging.raiseExceptions = False
    sink = LineSink(2)
    sys.stdout, sys.stderr = _Stream(LineSink(1)), _Stream(sink)
    history = ErrorHistory()
    handlers: list[logging.Handler] = [history]
    handlers.append(SinkHandler(sink) if file is None else _file_handler(file, rotation_mib))
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
        root.addHandler(handler)
    set_level(level)
    return history


def set_level(level: str) -> None:
    """Log what is of this level or above: a key of LEVELS."""
    logging.getLogger().setLevel(LEVELS[level])


def _file_handler(file: Path, rotation_mib: int) -> logging.Handler:
    from logging.handlers import RotatingFileHandler  # slow to import, and Kata has no use for it

    path = file if file.suffix else file.with_suffix(".log")
    path.parent.mkdir(parents=True, exist_ok=True)
    return RotatingFileHandler(
        path, maxBytes=rotation_mib << 20, backupCount=1, encoding="utf-8", errors="backslashreplace"
    )
