"""An OCI registry in this process, as a test wants it: logins, tokens, redirects, and answers that are wrong.

    async with FakeRegistry({BLOB_ID: content}) as registry:
        registry.login = "bearer"
        ...registry.host

What is not said is right: no login, no redirect. `answer` sees each request for a blob before it is served,
and may serve it in another way. `requests` has (method, path, headers) of all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType

from aiohttp import web

from tests.fakes.accounts import PASSWORD, REPOSITORY, USER

Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class HttpServer:
    """An application on a free port of this machine, for the time of an `async with`.

    With `tls` set before, it speaks TLS.
    """

    def __init__(self) -> None:
        self.tls: ssl.SSLContext | None = None
        self.app = web.Application(client_max_size=1 << 30)
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    async def start(self, port: int = 0) -> None:
        self._runner = web.AppRunner(
            self.app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def __aenter__(self):  # type: ignore[no-untyped-def]
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


@dataclass
class Seen:
    """A request that came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


class FakeRegistry(HttpServer):
    """See the module. `blobs` are by hex id."""

    def __init__(self, blobs: dict[str, bytes] | None = None) -> None:
        super().__init__()
        self.blobs = dict(blobs or {})
        self.manifests: dict[str, tuple[str, bytes]] = {}  # by tag and by digest: (media type, content)
        self.login = ""  # or "basic" or "bearer"
        self.user, self.password = USER, PASSWORD  # "" as user: tokens for everybody
        self.token_life_s: float | None = 60.0
        self.valid_tokens: set[str] = set()
        self.token_answer: Answer | None = None
        self.storage: str = ""  # URL that blobs are redirected to, with /ID?signature appended
        self.answer: Answer | None = None
        self.requests: list[Seen] = []
        self.token_requests: list[Seen] = []
        self.app.router.add_route("*", "/token", self._token)
        self.app.router.add_route("*", "/v2/{path:.*}", self._v2)

    def add_manifest(self, tag: str, document: object, media_type: str) -> str:
        content = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.manifests[tag] = self.manifests[digest] = (media_type, content)
        return digest

    async def _token(self, request: web.Request) -> web.StreamResponse:
        self.token_requests.append(_seen(request))
        if self.token_answer and (answer := await self.token_answer(request)):
            return answer
        if self.user:
            given = request.headers.get("Authorization", "")
            wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if given != f"Basic {wanted}":
                return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        token = secrets.token_hex(8)
        self.valid_tokens.add(token)
        life = {} if self.token_life_s is None else {"expires_in": self.token_life_s}
        return web.json_response({"token": token} | life)

    def _refusal(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        if self.login == "basic":
            wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if given == f"Basic {wanted}":
                return None
            challenge = 'Basic realm="a registry"'
        elif self.login == "bearer":
            if given.removeprefix("Bearer ") in self.valid_tokens:
                return None
            scope = f"repository:{REPOSITORY}:pull"
            challenge = (
                f'Bearer realm="{self.url}/token",service="fake",scope="{scope}",error="invalid_token"'
            )
        else:
            return None
        headers = {"WWW-Authenticate": challenge}
        return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401, headers=headers)

    async def _v2(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(_seen(request))
        if refusal := self._refusal(request):
            return refusal
        path = request.match_info["path"]
        if not path:
            return web.json_response({})
        match = re.fullmatch(rf"{REPOSITORY}/(blobs|manifests|tags)/(.+)", path)
        if match is None:
            return _missing("NAME_UNKNOWN")
        kind, name = match.groups()
        if kind == "tags":
            return self._tags(request)
        if kind == "manifests":
            if name not in self.manifests:
                return _missing("MANIFEST_UNKNOWN")
            media_type, content = self.manifests[name]
            return web.Response(body=content, content_type=media_type)
        if self.answer and (answer := await self.answer(request)):
            return answer
        blob_id = name.removeprefix("sha256:")
        if blob_id not in self.blobs:
            return _missing("BLOB_UNKNOWN")
        if self.storage:
            location = f"{self.storage}/{blob_id}?signature={secrets.token_hex(8)}"
            return web.Response(status=307, headers={"Location": location})
        return ranged(request, self.blobs[blob_id])

    def _tags(self, request: web.Request) -> web.Response:
        """Two at a time, with a link to the rest."""
        tags = sorted(tag for tag in self.manifests if ":" not in tag)
        last = request.query.get("last", "")
        rest = [tag for tag in tags if tag > last]
        headers = {}
        if len(rest) > 2:
            headers["Link"] = f'</v2/{REPOSITORY}/tags/list?last={rest[1]}&n=2>; rel="next"'
        return web.json_response({"name": REPOSITORY, "tags": rest[:2]}, headers=headers)


@dataclass
class Storage(HttpServer):
    """Object storage behind a registry: gives what it has to whoever has a signature that it takes."""

    blobs: dict[str, bytes]
    expired: set[str] = field(default_factory=set)
    requests: list[Seen] = field(default_factory=list)
    refuse_status: int = 403
    refuse_all: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.app.router.add_get("/{id}", self._get)

    def expire(self) -> None:
        """All URLs that were used so far."""
        self.expired |= {seen.query for seen in self.requests}

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(_seen(request))
        if self.refuse_all or request.query_string in self.expired:
            return web.Response(status=self.refuse_status, text="<Error><Code>AccessDenied</Code></Error>")
        return ranged(request, self.blobs[request.match_info["id"]])


def ranged(request: web.Request, content: bytes) -> web.Response:
    """The part of `content` that the request asks for, or all of it."""
    if request.method == "HEAD":
        return web.Response(headers={"Content-Length": str(len(content))})
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    if match is None:
        return web.Response(body=content)
    first, last = int(match[1]), min(int(match[2]), len(content) - 1)
    if first >= len(content):
        return web.Response(status=416)
    headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
    return web.Response(status=206, body=content[first : last + 1], headers=headers)


def _seen(request: web.Request) -> Seen:
    return Seen(request.method, request.path, request.query_string, dict(request.headers))


def _missing(code: str) -> web.Response:
    return web.json_response({"errors": [{"code": code}]}, status=404)
