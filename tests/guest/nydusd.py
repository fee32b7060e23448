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
    """The daemon; in its with block it is RUNNING. Its log is in `work`, and so are its sockets by default.

    `shared` and `readable` are what its sandbox leaves it beside Kata's own directories: for a guest to
    change, and to read. `options` go behind those that Kata gives, `prefix` before the command.
    `share_options` are set for each directory that is shared: fields of DirectoryOptions.
    """

    def __init__(
        self,
        work: Path,
        *,
        sockets: Path | None = None,
        shared: Sequence[Path] = (),
        readable: Sequence[Path] = (),
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        share_options: Sequence[str] = (),
    ) -> None:
        sock, self.api = ((sockets or work) / name for name in ("vhost-fs.sock", "nydusd-api.sock"))
        program = (
            ["tests.guest.with_options", ",".join(share_options)] if share_options else ["vhostfs.nydusd"]
        )
        command: list[str | Path] = [*prefix, sys.executable, "-m", *program, "virtiofs"]
        command += ["--log-level", "info", "--apisock", self.api, "--sock", sock, *options]
        for option, paths in (("--sandbox-writable", shared), ("--sandbox-readable", readable)):
            command += [word for path in paths for word in (option, path)]
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

    def sandbox(self) -> dict[str, str]:
        """What became of each part of its sandbox."""
        _, body = self.call("GET", "/api/v1/daemon")
        parts: dict[str, str] = json.loads(body)["sandbox"]["parts"]
        return parts

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


def run_on_share(
    guest: Guest,
    folder: Path,
    script: str,
    work: Path,
    *,
    image: Image | None = None,
    files: Mapping[str, bytes | Path] | None = None,
    share_options: Sequence[str] = (),
    timeout_s: float = 120,
) -> Result:
    """Share `folder` with a guest of its own that runs `script`: $SHARE is the folder there.

    $IMAGE is where `image` is, if one is given.
    """
    cache = work / "cache"
    cache.mkdir(exist_ok=True)
    readable = [image.bootstrap, image.blob_dir] if image else []
    with Nydusd(work, shared=[folder, cache], readable=readable, share_options=share_options) as daemon:
        daemon.share("/containers", folder)
        if image:
            daemon.mount("/rafs/image/lowerdir", image, cache)
        start = "mount -t virtiofs $TAG /mnt || exit 100\n"
        start += "SHARE=/mnt/containers IMAGE=/mnt/rafs/image/lowerdir\n"
        return daemon.run(guest, start + script, files=files, timeout_s=timeout_s)
