"""From a request to its answer: targets, methods, bodies and errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from vhostfs.api.errors import ApiError
from vhostfs.api.routes import Body, Request, Route, Routes, answer, parse_object, split_target


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/api/v1/daemon", "/api/v1/daemon", {}),
        ("/m?mountpoint=/rafs/a/lowerdir", "/m", {"mountpoint": "/rafs/a/lowerdir"}),
        ("/m?mountpoint=%2Frafs%2Fa%2Flowerdir", "/m", {"mountpoint": "/rafs/a/lowerdir"}),
        ("http://unix/m?mountpoint=%2Fa", "/m", {"mountpoint": "/a"}),
        ("http://localhost/m", "/m", {}),
        ("http://unix", "/", {}),
        ("/m?mountpoint=/a+b", "/m", {"mountpoint": "/a+b"}),  # Kata's container ids may have it
        ("/m?id=1&id=2", "/m", {"id": "1"}),
        ("/m?latest=true&id=%2Fa%20b&&x", "/m", {"latest": "true", "id": "/a b", "x": ""}),
        ("/m?id=%FF%zz", "/m", {"id": "\udcff%zz"}),
        ("/m?url=http://x/?y=1", "/m", {"url": "http://x/?y=1"}),
        ("/%6d?a#b", "/m", {"a": ""}),
    ],
)
def test_targets(target: str, path: str, query: dict[str, str]) -> None:
    assert split_target(target) == (path, query)


async def echo(request: Request) -> Any:
    return {"query": dict(request.query), "body": request.body.decode()}


async def nothing(request: Request) -> None:
    request.required("mountpoint")


async def refused(request: Request) -> None:
    raise ApiError(501, "not here")


async def broken(request: Request) -> None:
    raise RuntimeError("a secret that nobody needs to see")


async def gives_up(request: Request) -> None:
    raise asyncio.CancelledError


ROUTES: Routes = {
    "/echo": {"GET": Route(echo), "PUT": Route(echo, Body.REQUIRED)},
    "/nothing": {"DELETE": Route(nothing)},
    "/refused": {"PUT": Route(refused)},
    "/broken": {"GET": Route(broken)},
    "/gives-up": {"GET": Route(gives_up)},
}


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/echo?a=1", b"", 200),
        ("PUT", "http://unix/echo", b"{}", 200),
        ("DELETE", "/nothing?mountpoint=/a", b"", 204),
        ("DELETE", "/nothing", b"", 400),
        ("DELETE", "/nothing?mountpoint=/a", b"{}", 400),
        ("PUT", "/echo", b"", 400),
        ("GET", "/echo", b"x", 400),
        ("POST", "/echo", b"", 400),
        ("GET", "/none", b"", 404),
        ("GET", "/echo/", b"", 404),
        ("PUT", "/refused", b"", 501),
        ("GET", "/broken", b"", 500),
    ],
)
async def test_answers(method: str, target: str, body: bytes, status: int) -> None:
    got = await answer(ROUTES, method, target, body)
    assert got.status == status
    if status == 204:
        assert got.body is None
        return
    value = json.loads(got.body or b"")
    if status >= 400:
        assert set(value) == {"code", "message"} and value["code"] == "UNDEFINED"
        assert isinstance(value["message"], str) and value["message"]
        assert "secret" not in value["message"]


async def test_errors_say_what_is_wrong() -> None:
    async def message(method: str, target: str) -> str:
        text: str = json.loads((await answer(ROUTES, method, target, b"")).body or b"")["message"]
        return text

    assert await message("GET", "/none") == "NoRoute"
    assert "'mountpoint' should be specified in query string" in await message("DELETE", "/nothing")
    assert await message("PUT", "/refused") == "not here"


async def test_a_client_that_gives_up_is_no_error() -> None:
    with pytest.raises(asyncio.CancelledError):
        await answer(ROUTES, "GET", "/gives-up", b"")


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b"\xff", b'{"a": ' * 100_000, b"null"])
def test_a_body_that_is_no_object(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_object(body)
    assert caught.value.status == 400
