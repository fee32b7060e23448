"""Who we are at a registry: user and password, looked up again whenever they are needed.

In this order: what was set at run time (the API), what the configuration has, and Docker's configuration file
with its credential helpers. That file is read each time, since what logs in or rotates credentials writes
there. Nothing here is ever shown.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_FILE = 4 << 20
HELPER_TIMEOUT_S = 10.0
#: Docker Hub's name in Docker's file
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOST = "registry-1.docker.io"
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class CredentialError(Exception):
    """Credentials are there and cannot be used; the text names the place, and no secret."""


@dataclass(frozen=True, slots=True)
class Login:
    """User and password, or an identity token that a token server takes in their place."""

    user: str = field(repr=False)
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    #: where it is from, for errors
    source: str = ""

    @property
    def basic(self) -> str:
        """As an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def parse_auth(auth: str, source: str) -> Login:
    """`auth` is base64 of user:password, as Docker's file and nydusd have it. Raises CredentialError."""
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        user = colon = password = ""
    if not colon:
        raise CredentialError(f"{source}: its value is not the base64 of user:password")
    return Login(user, password.strip("\0"), source=source)


class Credentials:
    """The credentials for one host and repository."""

    def __init__(
        self, host: str, repository: str = "", *, auth: str = "", docker_config: Path | None = None
    ) -> None:
        """`auth` is the configuration's. `docker_config`: another file than `docker_config_path()`."""
        self._host = host
        self._repository = repository
        self._configured = auth
        self._set = ""
        self._docker_config = docker_config

    def set(self, auth: str) -> None:
        """New ones from the API; they go before all others. "" takes them back."""
        self._set = auth

    async def current(self, *, direct: bool = True) -> Login | None:
        """Who we are now; None when there is nothing to log in with. Raises CredentialError.

        Docker's logins are the machine's: they go to the host itself (`direct`), never by a mirror or proxy,
        which may have been named by somebody who must not see them.
        """
        if self._set:
            return parse_auth(self._set, "registry_auth, set by the API")
        if self._configured:
            return parse_auth(self._configured, "auth in the configuration")
        path = self._docker_config or docker_config_path()
        if path is None or not direct:
            return None
        content = await asyncio.to_thread(_read_json, path)
        return await self._from_docker(content, path) if content else None

    async def _from_docker(self, content: dict[str, Any], path: Path) -> Login | None:
        keys = _keys(self._host, self._repository)
        helpers = content.get("credHelpers")
        helper = (
            next((helpers[key] for key in keys if key in helpers), None)
            if isinstance(helpers, dict)
            else None
        )
        auths = content.get("auths")
        entry = _find(auths, keys) if isinstance(auths, dict) else None
        if helper is None and not entry:
            helper = content.get("credsStore")
        if helper is not None:
            if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
                raise CredentialError(f"{path}: the name of the credential helper cannot be one")
            login = await _ask_helper(helper, keys[-1])
            if login is not None or not entry:
                return login
        return _login_of(entry, f"{path}") if entry else None


def docker_config_path() -> Path | None:
    """The file that docker, podman and others log in to; None when there is none."""
    return next((path for path in _docker_config_paths() if path.is_file()), None)


def docker_config_directories() -> list[Path]:
    """Where that file is looked for. In them it is replaced when somebody logs in."""
    return [path.parent for path in _docker_config_paths()]


def _docker_config_paths() -> list[Path]:
    candidates = []
    if file := os.environ.get("REGISTRY_AUTH_FILE"):
        candidates.append(Path(file))
    if folder := os.environ.get("DOCKER_CONFIG"):
        candidates.append(Path(folder) / "config.json")
    with suppress(RuntimeError):  # no home
        candidates.append(Path.home() / ".docker" / "config.json")
    return candidates


def _keys(host: str, repository: str) -> list[str]:
    """Names under which a login may stand, the closest first; the last is what a helper is asked for."""
    parts = [part for part in repository.split("/") if part]
    paths = [f"{host}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
    if host == _HUB_HOST:
        return [*paths, host, "docker.io", "index.docker.io", _HUB_KEY]
    return [*paths, f"https://{host}/v2/", f"https://{host}/v1/", f"https://{host}", f"http://{host}", host]


def _find(auths: dict[str, Any], keys: list[str]) -> dict[str, Any] | None:
    for key in keys:
        entry = auths.get(key)
        if isinstance(entry, dict):
            return entry
    return None


def _login_of(entry: dict[str, Any], source: str) -> Login | None:
    token = entry.get("identitytoken")
    auth = entry.get("auth")
    login = parse_auth(auth, source) if isinstance(auth, str) and auth else None
    user, password = entry.get("username"), entry.get("password")
    if login is None and isinstance(user, str) and isinstance(password, str):
        login = Login(user, password, source=source)
    if isinstance(token, str) and token:
        return Login(login.user if login else "", login.password if login else "", token, source)
    return login


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_FILE))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CredentialError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise CredentialError(f"{path}: it is not JSON") from None
    return content if isinstance(content, dict) else {}


async def _ask_helper(helper: str, server: str) -> Login | None:
    """Run docker-credential-HELPER. None when it knows nothing of the server."""
    program = f"docker-credential-{helper}"
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise CredentialError(f"{program}: it cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(HELPER_TIMEOUT_S):
            output, _ = await process.communicate(server.encode())
    except TimeoutError:
        raise CredentialError(f"{program}: no answer within {HELPER_TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if b"credentials not found" in output:
        return None
    try:
        answer = json.loads(output)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, LookupError, TypeError):
        raise CredentialError(f"{program}: its answer has no Username and Secret") from None
    if user == "<token>":
        return Login("", "", str(secret), program)
    return Login(str(user), str(secret), source=program)
