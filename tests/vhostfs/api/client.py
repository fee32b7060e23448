"""A client of the API as Kata and nydus-snapshotter are: HTTP/1.1 on a Unix socket, kept alive."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple


class Answered(NamedTuple):
    status: int
    body: Any  # parsed; None without one
    headers: dict[str, str]


class UnixConnection(http.client.HTTPConnection):
    """One connection; blocks, so use it in a thread. `with` it to close it."""

    def __init__(self, path: Path | str, timeout: float = 30) -> None:
        super().__init__("unix", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def __enter__(self) -> UnixConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, target: str, body: Any = None, **headers: str) -> Answered:
        """One request; `body` is sent as JSON, an empty one as Content-Length: 0 where Go does so."""
        data = json.dumps(body).encode() if body is not None else None
        self.request(method, target, data, headers)
        response = self.getresponse()
        content = response.read()
        return Answered(response.status, json.loads(content) if content else None, dict(response.headers))

    def get(self, target: str) -> Any:
        """The body of a 200."""
        answered = self.call("GET", target)
        assert answered.status == 200, answered
        return answered.body
