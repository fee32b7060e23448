"""A client of one repository at an OCI registry: logging in, manifests, tags; blobs are in `blobs.py`.

    client = RegistryClient(pool, "registry.example:5000", "library/web")
    manifest = await client.get_manifest("latest")
    data = await client.blobs.read(digest, offset, length)

What reads here is tried again, on the mirrors first, and raises BlobUnavailable with a word for the thing.
`request` is one try of anything else, with logging in; `run` repeats a function that makes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from rafs.backend.body import (
    check_plain,
    read_document,
    refusal,
)
from rafs.backend.http import Data, HttpFailure, HttpOptions, HttpPool, host_of
from rafs.backend.mirrors import Route, Routes
from rafs.registry.auth import Authorizer, Scopes, pull_scopes
from rafs.registry.blobs import REDIRECTS, RegistryBlobs
from rafs.registry.challenge import parse_challenges
from rafs.registry.credentials import Credentials
from rafs.registry.reference import registry_host

if TYPE_CHECKING:
    import aiohttp

_Result = TypeVar("_Result")

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MAX_MANIFEST = 4 << 20  # as the OCI specification advises
MAX_TAGS = 100_000
#: requests until one is answered: with no token, with an old one, with a new one
MAX_LOGINS = 3


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index as it is stored; `digest` is that of `content`."""

    media_type: str
    digest: str
    content: bytes

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.content)
        return document


class RegistryClient:
    """See the module. Used on the event loop; `close` it there. The pool is the caller's."""

    def __init__(
        self,
        pool: HttpPool,
        host: str,
        repository: str,
        *,
        scheme: str = "https",
        options: HttpOptions | None = None,
        credentials: Credentials | None = None,
        fixed_token: str = "",
        routes: Sequence[Route] = (),
        redirect: Callable[[str], str] = lambda url: url,
    ) -> None:
        """`host` may be docker.io. `fixed_token`: a bearer token to begin with.

        `routes`: the ways to it when there are others than the direct one. `redirect` changes the URLs that
        blobs are redirected to.
        """
        self.pool = pool
        self.host = registry_host(host)
        self.repository = repository
        self.options = options or HttpOptions()
        self.credentials = credentials or Credentials(self.host, repository)
        self._fixed_token = fixed_token
        self.blobs = RegistryBlobs(self, redirect)
        self._authorizers: dict[Route, Authorizer] = {}
        self.routes: Routes
        self.set_routes(routes or [Route(f"{scheme}://{self.host}", self.host)])

    def set_routes(self, routes: Sequence[Route]) -> None:
        """From now on, other ways to the registry; the last one is the registry itself."""
        self.routes = Routes(self.pool, self.options, routes)
        self.blobs.forget()

    def log_in_again(self) -> None:
        """The credentials have changed: use no token of the old ones."""
        self._fixed_token = ""
        for authorizer in self._authorizers.values():
            authorizer.forget()

    def close(self) -> None:
        for authorizer in self._authorizers.values():
            authorizer.close()

    async def run(
        self, what: str, attempt: Callable[[Route], Awaitable[_Result]], *, avoid: Route | None = None
    ) -> _Result:
        """Call `attempt` on the ways to the registry until one does not raise HttpFailure, with pauses.

        `what` names the thing for errors. Raises BlobUnavailable.
        """
        return await self.routes.run(what, attempt, avoid=avoid)

    @asynccontextmanager
    async def request(
        self,
        route: Route,
        method: str,
        path: str,
        *,
        ok: Sequence[int] = (200,),
        headers: Mapping[str, str] | None = None,
        data: Data | None = None,
        length: int = 0,
        scopes: Scopes = (),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make one request, logging in as is wanted; give the answer when its status is one of `ok`.

        `path` is below /v2/REPOSITORY/, or a whole URL or path as a Location has it: credentials go to the
        registry only. `length`: of the body that is sent or expected. `scopes`: by default pull.
        Raises HttpFailure.
        """
        url = urljoin(f"{route.base}/v2/{self.repository}/", path)
        url = route.rewritten(url)
        scopes = scopes or pull_scopes(self.repository)
        ours = urlsplit(url)[:2] == urlsplit(route.rewritten(route.base + "/"))[:2]
        authorizer = self._authorizer(route) if ours else None
        for remaining in reversed(range(MAX_LOGINS)):
            sent = await authorizer.authorization(scopes) if authorizer else None
            all_headers = {**(headers or {}), **(route.headers if ours else {})}
            if sent is not None:
                all_headers["Authorization"] = sent
            name = route.name if ours else host_of(url)
            async with self.pool.exchange(
                method,
                url,
                self.options,
                headers=all_headers,
                data=data,
                length=length,
                proxy=route.proxy_for(url),
                name=name,
            ) as response:
                if response.status in ok:
                    yield response
                    return
                failure = await refusal(response, name)
                challenges = parse_challenges(response.headers.getall("WWW-Authenticate", ()))
            if authorizer is None or failure.status not in (401, 403) or not remaining:
                raise failure
            if failure.status == 401:
                await authorizer.answer(challenges, scopes, sent)
            elif not await authorizer.doubt(scopes, sent):
                raise failure

    def _authorizer(self, route: Route) -> Authorizer:
        found = self._authorizers.get(route)
        if found is None:
            found = self._authorizers[route] = Authorizer(
                self.pool,
                self.options,
                route.name,
                self.credentials,
                fixed_token=self._fixed_token,
                proxy=route.proxy,
                secure=route.base.startswith("https:"),
                direct=route.is_source and route.proxy is None,
            )
        return found

    # manifests and tags

    async def get_manifest(self, target: str, *, accept: Sequence[str] = MANIFEST_TYPES) -> Manifest:
        """Fetch the manifest of a tag or digest; by digest it is verified. Raises BlobUnavailable."""
        what = f"manifest {target} of {self.host}/{self.repository}"

        async def attempt(route: Route) -> Manifest:
            headers = {"Accept": ", ".join(accept)}
            async with self.request(
                route, "GET", f"manifests/{quote(target, safe=':')}", headers=headers
            ) as response:
                check_plain(response.headers, route.name)
                content = await read_document(response, route.name, MAX_MANIFEST)
                media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            digest = _digest(content, target if ":" in target else "sha256:")
            if ":" in target and digest != target:
                raise HttpFailure("corrupt", route.name, f"sends a manifest with another digest, {digest}")
            try:
                is_object = isinstance(json.loads(content), dict)
            except ValueError:
                is_object = False
            if not is_object:
                raise HttpFailure("corrupt", route.name, "sends a manifest that is no JSON object")
            return Manifest(media_type, digest, content)

        return await self.run(what, attempt)

    async def has_manifest(self, target: str) -> bool:
        """Whether there is a manifest with this tag or digest. Raises BlobUnavailable if that is unknown."""
        what = f"manifest {target} of {self.host}/{self.repository}"
        headers = {"Accept": ", ".join(MANIFEST_TYPES)}
        return await self._has(what, f"manifests/{quote(target, safe=':')}", headers)

    async def has_blob(self, digest: str) -> bool:
        """The same of a blob."""
        return await self._has(f"blob {digest} of {self.host}/{self.repository}", f"blobs/{digest}", {})

    async def _has(self, what: str, path: str, headers: Mapping[str, str]) -> bool:
        async def attempt(route: Route) -> bool:
            ok = (200, 404, *REDIRECTS)
            async with self.request(route, "HEAD", path, ok=ok, headers=headers) as response:
                return response.status != 404

        return await self.run(what, attempt)

    async def tags(self) -> list[str]:
        """All tags of the repository. Raises BlobUnavailable."""
        what = f"tags of {self.host}/{self.repository}"

        async def attempt(route: Route) -> list[str]:
            found: list[str] = []
            path = "tags/list"
            while path:
                async with self.request(route, "GET", path) as response:
                    document = json.loads(await read_document(response, route.name) or b"null")
                    path = str(response.links["next"]["url"]) if "next" in response.links else ""
                page = document.get("tags") if isinstance(document, dict) else None
                if page is not None and not isinstance(page, list):
                    raise HttpFailure("corrupt", route.name, "sends what is no list of tags")
                found += [tag for tag in page or [] if isinstance(tag, str)]
                if len(found) > MAX_TAGS:
                    raise HttpFailure("corrupt", route.name, f"lists more than {MAX_TAGS} tags", again=False)
            return found

        return await self.run(what, attempt)


def _digest(content: bytes, like: str) -> str:
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
