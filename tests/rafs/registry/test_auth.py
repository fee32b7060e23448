"""Tokens: asked for once, renewed ahead of their end, and never in a loop. The clock is the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from rafs.backend.http import HttpFailure, HttpOptions, HttpPool
from rafs.registry.auth import Authorizer, pull_scopes
from rafs.registry.challenge import Challenge
from rafs.registry.credentials import Credentials
from tests.fakes.accounts import BASIC, REPOSITORY
from tests.fakes.registry import FakeRegistry

SCOPES = pull_scopes(REPOSITORY)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Logging:
    """An authorizer, its clock, and the registry whose token server it asks."""

    def __init__(self, authorizer: Authorizer, clock: Clock, registry: FakeRegistry) -> None:
        self.authorizer = authorizer
        self.clock = clock
        self.registry = registry
        self.challenge = Challenge("bearer", {"realm": f"{registry.url}/token", "service": "fake"})

    async def value(self) -> str | None:
        return await self.authorizer.authorization(SCOPES)

    async def refused(self, sent: str | None = None) -> None:
        await self.authorizer.answer([self.challenge], SCOPES, sent)

    @property
    def asked(self) -> int:
        return len(self.registry.token_requests)

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.asked < count or self.authorizer._asking:
                await asyncio.sleep(0)


@asynccontextmanager
async def logging_in(
    *,
    auth: str = BASIC,
    docker_config: Path | None = None,
    life_s: float | None = 60.0,
    secure: bool = False,
) -> AsyncIterator[Logging]:
    pool, clock = HttpPool(), Clock()
    async with FakeRegistry() as registry:
        registry.token_life_s = life_s
        authorizer = Authorizer(
            pool,
            HttpOptions(),
            registry.host,
            Credentials(registry.host, REPOSITORY, auth=auth, docker_config=docker_config),
            secure=secure,
            clock=clock,
            chance=lambda low, high: low,
        )
        try:
            yield Logging(authorizer, clock, registry)
        finally:
            authorizer.close()
            await pool.close()


@pytest.mark.parametrize("life_s", [60.0, 3.0, 0.5, 3600.0, None])
async def test_a_token_is_renewed_before_it_ends(life_s: float | None) -> None:
    async with logging_in(life_s=life_s) as login:
        assert await login.value() is None
        await login.refused()
        first = await login.value()
        life = life_s or 60.0
        login.clock.now += life * 0.49
        assert await login.value() == first and login.asked == 1
        login.clock.now += life * 0.02
        assert await login.value() == first  # it still holds, nobody waits
        await login.until_asked(2)
        second = await login.value()
        assert second != first and login.asked == 2
        login.clock.now += life  # nobody asked for long: the next one waits for a new token
        assert await login.value() not in (first, second)
        assert login.asked == 3


async def test_near_its_end_it_is_not_used_any_more() -> None:
    async with logging_in(life_s=60.0) as login:
        await login.refused()
        first = await login.value()
        login.clock.now += 55.5
        assert await login.value() != first


async def test_one_renewal_for_all_that_wait_and_a_waiter_that_goes_does_not_end_it() -> None:
    async with logging_in() as login:
        gate = asyncio.Event()

        async def hold(request: web.Request) -> web.Response | None:
            await gate.wait()
            return None

        login.registry.token_answer = hold
        waiting = [asyncio.create_task(login.refused()) for _ in range(20)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError) and results[1:] == [None] * 19
        assert login.asked == 1


async def test_a_renewal_that_fails_is_not_repeated_in_a_loop() -> None:
    async def down(request: web.Request) -> web.Response:
        return web.Response(status=503)

    async with logging_in() as login:
        await login.refused()
        first = await login.value()
        login.registry.token_answer = down
        login.clock.now += 31
        for _ in range(10):
            assert await login.value() == first
            await login.until_asked(2)
        assert login.asked == 2
        login.clock.now += 6
        assert await login.value() == first
        await login.until_asked(3)
        login.clock.now += 20  # past its end
        with pytest.raises(HttpFailure, match="answers 503") as info:
            await login.value()
        assert info.value.kind == "network" and info.value.again


@pytest.mark.parametrize(
    ("document", "kind", "words"),
    [
        ({}, "auth", "gives no token"),
        ({"token": ""}, "auth", "gives no token"),
        ({"token": "a\nb"}, "auth", "gives no token"),
        ({"token": 7}, "auth", "gives no token"),
        ([], "corrupt", "no token document"),
        ("<html>", "corrupt", "no token document"),
    ],
)
async def test_what_is_no_token(document: object, kind: str, words: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=document if isinstance(document, str) else json.dumps(document))

    async with logging_in() as login:
        login.registry.token_answer = answer
        with pytest.raises(HttpFailure, match=words) as info:
            await login.refused()
        assert info.value.kind == kind


async def test_what_is_asked_for() -> None:
    async with logging_in() as login:
        login.challenge = Challenge(
            "bearer", login.challenge.parameters | {"scope": "repository:library/web:pull repository:x:pull"}
        )
        await login.refused()
        (seen,) = login.registry.token_requests
        assert parse_qs(seen.query) == {
            "service": ["fake"],
            "scope": ["repository:library/web:pull", "repository:x:pull"],
            "account": ["somebody"],
        }
        assert seen.headers["Authorization"] == f"Basic {BASIC}"


async def test_an_identity_token_is_exchanged_for_one_by_another_name(tmp_path: Path) -> None:
    bodies = []

    async def answer(request: web.Request) -> web.Response:
        bodies.append(parse_qs(await request.text()))
        return web.json_response({"access_token": "x"})

    path = tmp_path / "config.json"
    async with logging_in(auth="", docker_config=path) as login:
        path.write_text(json.dumps({"auths": {login.registry.host: {"identitytoken": "identity"}}}))
        login.registry.token_answer = answer
        await login.refused()
        assert await login.value() == "Bearer x"
        (body,) = bodies
        assert (body["grant_type"], body["refresh_token"]) == (["refresh_token"], ["identity"])
        assert body["scope"] == list(SCOPES)
        assert login.registry.token_requests[0].method == "POST"


async def test_credentials_are_not_sent_without_tls_for_a_registry_that_has_it() -> None:
    async with logging_in(secure=True) as login:
        with pytest.raises(HttpFailure, match=r"sent to 127.* without TLS"):
            await login.refused()
        assert login.asked == 0
    async with logging_in(secure=True, auth="") as login:
        login.registry.user = ""
        await login.refused()  # nobody in particular has nothing to lose
        assert login.asked == 1


@pytest.mark.parametrize("realm", ["", "token", "http://", "http://[x"])
async def test_a_token_server_that_cannot_be_asked(realm: str) -> None:
    async with logging_in() as login:
        login.challenge = Challenge("bearer", {"realm": realm})
        with pytest.raises(HttpFailure, match="names no token server"):
            await login.refused()


async def test_ways_to_log_in_that_nobody_knows() -> None:
    async with logging_in() as login:
        with pytest.raises(HttpFailure, match="does not say how"):
            await login.authorizer.answer([], SCOPES, None)
        with pytest.raises(HttpFailure, match="unknown here: negotiate"):
            await login.authorizer.answer([Challenge("negotiate")], SCOPES, None)
