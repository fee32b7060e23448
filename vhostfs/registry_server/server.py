"""The routes of the Distribution API, and the process that serves them.

`GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` below `/v2/`, as the OCI Distribution specification 1.1 has
them. There are no users: who can connect can do everything, so it listens on this machine only unless told
otherwise.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlencode

from aiohttp import web

from rafs.oci.descriptor import MAX_DOCUMENT, OCI_INDEX, sha256_digest
from vhostfs.registry_server.errors import Refusal
from vhostfs.registry_server.manifests import check, referrers_index
from vhostfs.registry_server.store import DIGEST, MAX_NAME, NAME, TAG, Store
from vhostfs.registry_server.uploads import Session, Uploads

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_PAGE = 1000
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,15})-(\d{1,15})(?:/.*)?")


class Registry:
    """The handlers over one Store. `app` is what is served."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._uploads = Uploads(store)
        self.app = web.Application(middlewares=[_answer_refusals])
        name = f"/v2/{{name:{NAME}}}"
        self.app.router.add_routes(
            [
                web.get("/v2/", self._root),
                web.get("/v2/_catalog", self._catalog),
                web.get(name + "/tags/list", self._tags),
                web.get(name + "/referrers/{digest}", self._referrers),
                web.get(name + "/blobs/{digest}", self._get_blob),  # HEAD too
                web.delete(name + "/blobs/{digest}", self._delete_blob),
                web.post(name + "/blobs/uploads/", self._begin),
                web.get(name + "/blobs/uploads/{id}", self._ask),
                web.patch(name + "/blobs/uploads/{id}", self._append),
                web.put(name + "/blobs/uploads/{id}", self._finish),
                web.delete(name + "/blobs/uploads/{id}", self._cancel),
                web.get(name + "/manifests/{reference}", self._get_manifest),
                web.put(name + "/manifests/{reference}", self._put_manifest),
                web.delete(name + "/manifests/{reference}", self._delete_manifest),
            ]
        )

    async def _root(self, request: web.Request) -> web.Response:
        return web.json_response({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})

    # blobs

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        name, digest = _name(request), _digest(request)
        if not await asyncio.to_thread(self._store.has_blob, name, digest):
            raise Refusal("BLOB_UNKNOWN", f"{name} has no blob {digest}")
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        return web.FileResponse(self._store.content(digest), headers=headers)

    async def _delete_blob(self, request: web.Request) -> web.Response:
        name, digest = _name(request), _digest(request)
        if not await asyncio.to_thread(self._store.delete_blob, name, digest):
            raise Refusal("BLOB_UNKNOWN", f"{name} has no blob {digest}")
        return web.Response(status=202)

    # uploads

    async def _begin(self, request: web.Request) -> web.Response:
        name = _name(request)
        mount, source = request.query.get("mount", ""), request.query.get("from", "")
        can_mount = bool(DIGEST.fullmatch(mount) and re.fullmatch(NAME, source))
        if can_mount and await asyncio.to_thread(self._store.has_blob, source, mount):
            await asyncio.to_thread(self._store.link_blob, name, mount)
            return _created(f"/v2/{name}/blobs/{mount}", mount)
        session = self._uploads.begin(name)
        if digest := request.query.get("digest"):
            await self._uploads.append(session, 0, _body(request))
            return await self._end(session, digest)
        return web.Response(status=202, headers=session.headers)

    async def _ask(self, request: web.Request) -> web.Response:
        session = self._uploads.find(_name(request), request.match_info["id"])
        return web.Response(status=204, headers=session.headers)

    async def _append(self, request: web.Request) -> web.Response:
        session = self._uploads.find(_name(request), request.match_info["id"])
        await self._uploads.append(session, _start(request, session), _body(request))
        return web.Response(status=202, headers=session.headers)

    async def _finish(self, request: web.Request) -> web.Response:
        session = self._uploads.find(_name(request), request.match_info["id"])
        if request.can_read_body:
            await self._uploads.append(session, _start(request, session), _body(request))
        return await self._end(session, request.query.get("digest", ""))

    async def _end(self, session: Session, digest: str) -> web.Response:
        await self._uploads.finish(session, digest)
        return _created(f"/v2/{session.name}/blobs/{digest}", digest)

    async def _cancel(self, request: web.Request) -> web.Response:
        self._uploads.cancel(self._uploads.find(_name(request), request.match_info["id"]))
        return web.Response(status=204)

    # manifests

    async def _get_manifest(self, request: web.Request) -> web.Response:
        name, reference = _name(request), _reference(request)
        found = await asyncio.to_thread(self._store.find_manifest, name, reference)
        if found is None:
            raise Refusal("MANIFEST_UNKNOWN", f"{name} has no manifest {reference}")
        digest, media_type, content = found
        headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
        return web.Response(body=content, headers=headers)

    async def _put_manifest(self, request: web.Request) -> web.Response:
        name, reference = _name(request), _reference(request)
        content = b""
        async for piece in _body(request):
            content += piece
            if len(content) > MAX_DOCUMENT:
                raise Refusal("SIZE_INVALID", f"a manifest has {MAX_DOCUMENT} bytes at most")
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        subject = await asyncio.to_thread(check, self._store, name, content, media_type)
        digest = sha256_digest(content)
        if ":" in reference and digest != reference:
            raise Refusal("DIGEST_INVALID", f"what was sent has the digest {digest}, not {reference}")
        tag = None if ":" in reference else reference
        await asyncio.to_thread(self._store.put_manifest, name, content, media_type, tag, subject)
        response = _created(f"/v2/{name}/manifests/{digest}", digest)
        if subject:
            response.headers["OCI-Subject"] = subject
        return response

    async def _delete_manifest(self, request: web.Request) -> web.Response:
        name, reference = _name(request), _reference(request)
        if not await asyncio.to_thread(self._store.delete_manifest, name, reference):
            raise Refusal("MANIFEST_UNKNOWN", f"{name} has no manifest {reference}")
        return web.Response(status=202)

    async def _referrers(self, request: web.Request) -> web.Response:
        name, subject = _name(request), _digest(request)
        kind = request.query.get("artifactType")
        manifests = await asyncio.to_thread(self._store.referrers, name, subject)
        headers = {"OCI-Filters-Applied": "artifactType"} if kind else {}
        return web.json_response(referrers_index(manifests, kind), content_type=OCI_INDEX, headers=headers)

    # lists

    async def _tags(self, request: web.Request) -> web.Response:
        name = _name(request)
        if not await asyncio.to_thread(self._store.has_repository, name):
            raise Refusal("NAME_UNKNOWN", f"there is no repository {name}")
        tags, headers = _page(request, await asyncio.to_thread(self._store.tags, name))
        return web.json_response({"name": name, "tags": tags}, headers=headers)

    async def _catalog(self, request: web.Request) -> web.Response:
        names, headers = _page(request, await asyncio.to_thread(lambda: sorted(self._store.names())))
        return web.json_response({"repositories": names}, headers=headers)


@web.middleware
async def _answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as error:
        refusal = error
    except web.HTTPNotFound:
        refusal = Refusal("NAME_UNKNOWN", "no such path, or a name that repositories do not have")
    except web.HTTPMethodNotAllowed as error:
        refusal = Refusal("UNSUPPORTED", "not done here", {"Allow": error.headers["Allow"]})
    except OSError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        document = {"errors": [{"code": "UNKNOWN", "message": f"storage: {error.strerror}"}]}
        return web.json_response(document, status=507 if error.errno == errno.ENOSPC else 500)
    return web.json_response(refusal.document, status=refusal.status, headers=refusal.headers)


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if len(name) > MAX_NAME:
        raise Refusal("NAME_INVALID", f"a name has {MAX_NAME} characters at most")
    return name


def _digest(request: web.Request) -> str:
    digest = request.match_info["digest"]
    if not DIGEST.fullmatch(digest):
        raise Refusal("DIGEST_INVALID", f"{digest[:100]!r} is no digest by SHA-256")
    return digest


def _reference(request: web.Request) -> str:
    reference = request.match_info["reference"]
    if not DIGEST.fullmatch(reference) and not TAG.fullmatch(reference):
        raise Refusal("MANIFEST_INVALID", f"{reference[:100]!r} is neither a tag nor a digest by SHA-256")
    return reference


def _start(request: web.Request, session: Session) -> int | None:
    """The first byte that a part says it has; it must then have as many as it says."""
    said = request.headers.get("Content-Range")
    if said is None:
        return None
    match = _CONTENT_RANGE.fullmatch(said)
    if match is None:
        raise Refusal("BLOB_UPLOAD_INVALID", f"Content-Range {said[:80]!r} cannot be read", session.headers)
    start, end = int(match[1]), int(match[2])
    if request.content_length not in (None, end - start + 1):
        raise Refusal("BLOB_UPLOAD_INVALID", "Content-Range and Content-Length differ", session.headers)
    return start


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_any():
        yield piece


def _created(location: str, digest: str) -> web.Response:
    return web.Response(status=201, headers={"Location": location, "Docker-Content-Digest": digest})


def _page(request: web.Request, items: list[str]) -> tuple[list[str], dict[str, str]]:
    """The page that is asked for by `n` and `last`, and where the next one is."""
    asked, last = request.query.get("n", ""), request.query.get("last", "")
    size = min(int(asked), MAX_PAGE) if asked.isdecimal() and len(asked) < 10 else MAX_PAGE
    rest = [item for item in items if item > last]
    page = rest[:size]
    if len(rest) <= size or not page:
        return page, {}
    query = urlencode({"n": size, "last": page[-1]})
    return page, {"Link": f'<{request.path}?{query}>; rel="next"'}
