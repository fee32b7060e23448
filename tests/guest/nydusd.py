"""`vhostfs-nydusd virtiofs` behind a guest, driven as Kata drives it: mounts come and go through its API."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from tests.guest.backend import START_S, Backend, BackendError, Image
from tests.guest.vm import Guest, GuestError, Result

#: of one call: Kata's own
CALL_S = 30.0


class ApiConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("unix", timeout=CALL_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CALL_S)
        self.sock.connect(str(self._path))


class Nydusd(Backend):
    """The daemon; in its with block it is RUNNING. `options` go behind those that Kata gives."""

    def __init__(self, work: Path, options: Sequence[str] = (), *, prefix: Sequence[str] = ()) -> None:
        sock, self.api = work / "vhost-fs.sock", work / "nydusd-api.sock"
        command: list[str | Path] = [*prefix, sys.executable, "-m", "vhostfs.nydusd", "virtiofs"]
        command += ["--log-level", "info", "--apisock", self.api, "--sock", sock, *options]
        super().__init__(command, sock, work / "nydusd.log")

    def __enter__(self) -> Self:
        super().__enter__()
        deadline = time.monotonic() + START_S
        while not self._is_running():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                self.process.wait()
                raise BackendError(f"{self._name} is not RUNNING:\n{self.said()}")
        return self

    def _is_running(self) -> bool:
        try:
            status, body = self.call("GET", "/api/v1/daemon")
        except OSError:
            return False
        return status == 200 and json.loads(body)["state"] == "RUNNING"

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body."""
        connection = ApiConnection(self.api)
        try:
            text = None if body is None else json.dumps(body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, text, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _call(self, method: str, mountpoint: str, body: Mapping[str, Any] | None = None) -> None:
        status, said = self.call(method, f"/api/v1/mount?mountpoint={quote(mountpoint)}", body)
        if status != 204:
            raise BackendError(f"{method} of {mountpoint} was answered {status}: {said.decode()}")

    def share(self, mountpoint: str, source: Path, config: str = "") -> None:
        """Mount a host directory. Raises BackendError."""
        body = {"fs_type": "passthrough_fs", "source": str(source), "config": config}
        self._call("POST", mountpoint, body)

    def mount(self, mountpoint: str, image: Image, cache_dir: Path) -> None:
        """Mount an image. Raises BackendError."""
        cache_dir.mkdir(exist_ok=True)
        config = {
            "device": {
                "backend": {"type": "localfs", "config": {"dir": str(image.blob_dir)}},
                "cache": {"type": "blobcache", "config": {"work_dir": str(cache_dir)}},
            },
            "mode": "direct",
            "digest_validate": False,
            "enable_xattr": True,
        }
        body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": json.dumps(config)}
        self._call("POST", mountpoint, body)

    def umount(self, mountpoint: str) -> None:
        self._call("DELETE", mountpoint)

    def run(self, guest: Guest, script: str, **options: Any) -> Result:
        """Run `script` in a guest that has this daemon's device; see Guest.run."""
        try:
            return guest.run(script, socket=self.socket, backend=self.process, **options)
        except GuestError as error:
            raise GuestError(f"{error}\nthe daemon said:\n{self.said()}") from None
