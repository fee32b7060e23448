"""The paths of the API, and from a request to its answer. No IO: method, target and body in, bytes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import unquote

from vhostfs.api.errors import ApiError, error_body

log = logging.getLogger(__name__)

#: of a request; a configuration of 1 MiB fits in, quoted as it is
MAX_BODY = 4 << 20


class Request(NamedTuple):
    """What a handler gets. `query` is decoded; the first value of a name counts."""

    query: Mapping[str, str]
    body: bytes

    def required(self, name: str) -> str:
        """A value of the query. Raises ApiError."""
        try:
            return self.query[name]
        except KeyError:
            raise ApiError(400, f"QueryString(\"'{name}' should be specified in query string\")") from None


class Answer(NamedTuple):
    """`body` is of the media type `kind`, or None for an answer without one."""

    status: int
    body: bytes | None
    kind: str = "application/json"


class Document(NamedTuple):
    """What is answered as it is, where it is no JSON."""

    body: bytes
    kind: str


#: a value for a 200 with it as JSON or a Document, None for a 204
Handler = Callable[[Request], Awaitable[Any]]


class Body(Enum):
    """Whether a request may have one."""

    NONE = "none"
    REQUIRED = "required"


class Route(NamedTuple):
    handler: Handler
    body: Body = Body.NONE


Routes = Mapping[str, Mapping[str, Route]]


async def answer(routes: Routes, method: str, target: str, body: bytes) -> Answer:
    """Answer one request. Errors become answers; only cancellation gets out."""
    try:
        path, query = split_target(target)
        methods = routes.get(path)
        if methods is None:
            raise ApiError(404, "NoRoute")
        route = methods.get(method)
        if route is None:
            raise ApiError(400, f"BadRequest: {method} is no method of {path}")
        if route.body is Body.NONE and body:
            raise ApiError(400, f"BadRequest: {method} {path} takes no body")
        if route.body is Body.REQUIRED and not body:
            raise ApiError(400, f"BadRequest: {method} {path} needs a body")
        value = await route.handler(Request(query, body))
    except ApiError as error:
        log.log(logging.ERROR if error.status >= 500 else logging.WARNING, "%s: %s", method, error.message)
        return error_answer(error.status, error.message)
    except Exception:
        log.exception("%s: internal error", method)
        return error_answer(500, "internal error")
    if isinstance(value, Document):
        return Answer(200, value.body, value.kind)
    return Answer(204, None) if value is None else Answer(200, _encode(value))


def error_answer(status: int, message: str) -> Answer:
    """An error as clients parse it."""
    return Answer(status, _encode(error_body(message)))


def split_target(target: str) -> tuple[str, dict[str, str]]:
    """Path and query of a target in origin or absolute form. '+' is a plus: Kata sends it unencoded."""
    if not target.startswith("/") and "://" in target:
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, text = target.partition("#")[0].partition("?")
    query: dict[str, str] = {}
    for pair in filter(None, text.split("&")):
        name, _, value = pair.partition("=")
        query.setdefault(unquote(name, errors="surrogateescape"), unquote(value, errors="surrogateescape"))
    return unquote(path, errors="surrogateescape"), query


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError, which shows nothing of it: it may hold credentials."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "ParseBody: the body is no JSON") from None
    if not isinstance(value, dict):
        raise ApiError(400, "ParseBody: the body is no JSON object")
    return value


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()
