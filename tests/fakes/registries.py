"""Real servers, each a process on this machine: Debian's docker-registry and nginx, unpacked into the cache.

    with docker_registry_at(folder) as registry:
        digest = registry.push_blob("library/web", content)
        registry.host, registry.url

A folder may be served again, with another login. The fixture `docker_registry` is one without a login, for a
test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import queue
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

from tests.fakes.accounts import ISSUER, SERVICE, USER
from tests.guest.debian import unpacked
from tests.guest.programs import environment

if TYPE_CHECKING:
    from tests.fakes.token_server import TokenServer

START_DEADLINE_S = 30
#: bcrypt of PASSWORD
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuDIEddBSuRWBBEY6g5zv60IAP5bSSfki\n"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class DockerRegistry:
    """A docker-registry that runs. `folder` has what was pushed."""

    port: int
    folder: Path
    log: Path
    scheme: str = "http"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def push_blob(self, repository: str, content: bytes) -> str:
        """Upload a blob; return its digest. For a registry without a login."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        with _call("POST", f"{self.url}/v2/{repository}/blobs/uploads/", b"") as answer:
            location = urljoin(self.url, answer.headers["Location"])
        mark = "&" if "?" in location else "?"
        _call("PUT", f"{location}{mark}digest={digest}", content, "application/octet-stream").close()
        return digest

    def push_manifest(
        self, repository: str, target: str, document: object, media_type: str = OCI_MANIFEST
    ) -> str:
        """Upload a manifest by tag or digest; return its digest."""
        content = json.dumps(document).encode()
        url = f"{self.url}/v2/{repository}/manifests/{target}"
        _call("PUT", url, content, media_type).close()
        return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextmanager
def docker_registry_at(
    folder: Path,
    *,
    login: str = "",
    token_server: TokenServer | None = None,
    redirect_to: str = "",
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[DockerRegistry]:
    """Serve what is stored in `folder`. `login`: "", "basic" (USER, PASSWORD), "bearer" with a token server.

    `redirect_to`: the URL of a server of the same folder, to which blobs are redirected. `certificate`: PEM
    files of a certificate and its key; the registry then has TLS.
    """
    program = unpacked("docker-registry", ["docker-registry"]) / "usr/bin/docker-registry"
    folder.mkdir(exist_ok=True)
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "text"},
        "storage": {"filesystem": {"rootdirectory": str(folder)}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0", "relativeurls": False, "secret": "of a test"},
    }
    if certificate:
        config["http"]["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}  # type: ignore[index]
    if redirect_to:
        config["middleware"] = {"storage": [{"name": "redirect", "options": {"baseurl": redirect_to}}]}
    if login == "basic":
        htpasswd = folder / "htpasswd"
        htpasswd.write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "a registry", "path": str(htpasswd)}}
    elif login == "bearer":
        assert token_server is not None
        certificate_file, _ = token_server.signer.write(folder, "token-server")
        config["auth"] = {
            "token": {
                "realm": token_server.url,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(certificate_file),
            }
        }
    file = folder / "config.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    log = folder / "registry.log"
    command = [str(program), "serve", str(file)]
    # what it says of each request goes to its standard output
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            port = int(_wait_line(process, log, r"listening on 127\.0\.0\.1:(\d+)"))
            yield DockerRegistry(port, folder, log, "https" if certificate else "http")
        finally:
            process.kill()


def _wait_line(process: subprocess.Popen[str], log: Path, pattern: str) -> str:
    """The group in the first line of the process's errors that has `pattern`; all of them go to `log`."""
    found: queue.Queue[str | None] = queue.Queue()
    assert process.stderr is not None
    lines = os.fdopen(os.dup(process.stderr.fileno()))  # the process's own is closed with it

    def pump() -> None:
        with log.open("w") as file, lines:
            for line in lines:
                file.write(line)
                if match := re.search(pattern, line):
                    found.put(match[1])
        found.put(None)

    threading.Thread(target=pump, daemon=True).start()
    value = found.get(timeout=START_DEADLINE_S)
    if value is None:
        pytest.fail(f"{process.args!r} did not start:\n{log.read_text()}", pytrace=False)
    return value


def _call(method: str, url: str, body: bytes, kind: str = "") -> HTTPResponse:
    headers = {"Content-Type": kind} if kind else {}
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {error.code} {error.read()!r}") from None
    return answer


def wait_until_tokens_expire(registry: DockerRegistry, repository: str, tokens: TokenServer) -> None:
    """Return when the registry refuses all tokens that have been issued so far."""
    _, document = tokens.issue([f"repository:{repository}:pull"])
    headers = {"Authorization": f"Bearer {document['token']}"}
    request = urllib.request.Request(f"{registry.url}/v2/{repository}/tags/list", headers=headers)
    deadline = time.monotonic() + tokens.life_s + START_DEADLINE_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 401:
                return
        time.sleep(0.01)  # not to be a load on it
    pytest.fail("the tokens do not expire", pytrace=False)


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    """A real registry without a login, with nothing in it."""
    with docker_registry_at(tmp_path / "docker-registry") as registry:
        yield registry


@dataclass
class Nginx:
    """An nginx that runs and serves `root`; below /signed/ only what is signed and has not expired.

    `socket` is a unix socket at which it listens too.
    """

    port: int
    root: Path
    socket: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@contextmanager
def nginx_at(root: Path, folder: Path, *, secret: str = "of a test") -> Iterator[Nginx]:
    """Serve the files below `root`; `folder` is for nginx's own."""
    tree = unpacked("nginx", ["nginx", "libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1"])
    libraries = tree / "usr/lib/x86_64-linux-gnu", tree / "lib/x86_64-linux-gnu"
    folder.mkdir(exist_ok=True)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=512) as listening,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(f"{folder}/socket")
        local.listen(512)
        port = listening.getsockname()[1]
        (folder / "nginx.conf").write_text(
            f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
{"user root;" if os.geteuid() == 0 else ""}
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    listen unix:{folder}/socket;
    root {root};
    location ~ ^/signed/(?<hash>[^/]+)/(?<until>[0-9]+)/(?<name>.*)$ {{
      secure_link $hash,$until;
      secure_link_md5 "{secret} $until $name";
      if ($secure_link = "") {{ return 403; }}
      if ($secure_link = "0") {{ return 410; }}
      alias {root}/$name;
    }}
  }}
}}
"""
        )
        command = [str(tree / "usr/sbin/nginx"), "-p", str(folder), "-e", f"{folder}/error.log"]
        command += ["-c", str(folder / "nginx.conf")]
        env = environment() | {
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "NGINX": f"{listening.fileno()};{local.fileno()};",  # it takes the sockets over
        }
        descriptors = [listening.fileno(), local.fileno()]
        process = subprocess.Popen(command, env=env, pass_fds=descriptors, stderr=subprocess.PIPE)
        # the sockets listen already: whoever connects waits until nginx accepts
    try:
        yield Nginx(port, root, folder / "socket")
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=START_DEADLINE_S)
        if process.returncode:
            pytest.fail(f"nginx failed: {errors.decode()}", pytrace=False)


def signed_path(name: str, until: int, *, secret: str = "of a test") -> str:
    """The path under which `nginx_at` gives the file `name` until that second."""
    digest = hashlib.md5(f"{secret} {until} {name}".encode()).digest()
    return f"/signed/{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}/{until}/{name}"
