"""Recording through the API of a running daemon."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rafs.trace.errors import TraceError
from rafs.trace.format import Trace, parse_trace

ANSWER_TIMEOUT_S = 30


class ApiConnection(http.client.HTTPConnection):
    """HTTP on the Unix socket of a daemon's API."""

    def __init__(self, socket_path: Path) -> None:
        super().__init__("unix", timeout=ANSWER_TIMEOUT_S)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._socket_path))

    def call(self, method: str, target: str) -> Any:
        """The JSON of an answer, None without one. Raises TraceError with the daemon's words; OSError."""
        self.request(method, target, headers={"Content-Length": "0"})
        response = self.getresponse()
        body = response.read()
        if response.status not in (200, 204):
            try:
                reason = json.loads(body)["message"]
            except (ValueError, KeyError, TypeError):
                reason = body[:200].decode(errors="replace")
            raise TraceError(f"the daemon answered {response.status}: {reason}")
        return json.loads(body) if body else None


def record(socket_path: Path, mountpoint: str, seconds: float | None) -> Trace:
    """Record the reads of a mount. `seconds` None: until SIGINT or SIGTERM, which end it early too.

    Raises TraceError; OSError naming the socket.
    """
    target = f"/api/v1/trace?mountpoint={quote(mountpoint, safe='')}"
    connection = ApiConnection(socket_path)
    try:
        connection.call("PUT", target)
        _wait(seconds)
        return parse_trace(b64decode(connection.call("DELETE", target)["trace"]))
    except http.client.HTTPException as error:
        raise TraceError(f"{socket_path}: not the API of a daemon: {error!r}") from error
    except OSError as error:
        error.filename = error.filename or str(socket_path)
        raise
    finally:
        connection.close()


def _wait(seconds: float | None) -> None:
    ending = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        if seconds is None:
            signal.sigwait(ending)
        else:
            signal.sigtimedwait(ending, max(seconds, 0))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
