"""Logging in to a registry: none, Basic, or Bearer with tokens that are renewed before they expire.

    authorizer = Authorizer(pool, options, host, credentials)
    value = await authorizer.authorization(scopes)      # what is known to be wanted; None at first
    ... 401 ...
    await authorizer.answer(challenges, scopes, value)  # or HttpFailure, when nothing more can be tried

What a server wanted once is remembered, so that only the first request is refused. A token is asked for once
for all that need it; past half of its life it is renewed in the background, near its end the next request
waits for a new one. Nothing happens while nobody asks, and a token server that fails is not asked in a loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from rafs.backend.body import read_document, refusal
from rafs.backend.http import HttpFailure, HttpOptions, HttpPool, environment_proxy, host_of
from rafs.registry.challenge import Challenge
from rafs.registry.credentials import CredentialError, Credentials, Login

log = logging.getLogger(__name__)

#: of a token that does not say (the specification's default)
DEFAULT_LIFE_S = 60.0
#: a token is renewed after this part of its life, by chance in between: many nodes must not do it at once
RENEW_PART = (0.5, 0.75)
#: and not used any more so long before its end: a request takes its time, and clocks differ
MARGIN_S = 5.0
MARGIN_PART = 0.1
#: after a renewal in the background that failed
RENEW_AGAIN_S = 5.0
#: a token of this age is not to blame for a 403
NEW_S = 1.0
MAX_TOKEN_DOCUMENT = 1 << 20
CLIENT_ID = "vhostfs"

Scopes = tuple[str, ...]


def pull_scopes(repository: str) -> Scopes:
    return (f"repository:{repository}:pull",)


@dataclass(slots=True)
class _Token:
    value: str
    asked_at: float
    renew_at: float
    stale_at: float


class Authorizer:
    """Authorization headers for one host. Used on the event loop; `close` it there."""

    def __init__(
        self,
        pool: HttpPool,
        options: HttpOptions,
        host: str,
        credentials: Credentials,
        *,
        fixed_token: str = "",
        proxy: str | None = None,
        secure: bool = True,
        direct: bool = True,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`fixed_token` is a bearer token of the configuration, sent before anything is asked for.

        `secure`: the host is spoken to with TLS, so credentials are not sent to a token server without.
        `direct`: it is the registry itself, spoken to without a proxy (see Credentials.current).
        """
        self._pool = pool
        self._options = options
        self._host = host
        self._credentials = credentials
        self._fixed_token = fixed_token
        self._proxy = proxy
        self._secure = secure
        self._direct = direct
        self._clock = clock
        self._chance = chance
        self._challenge: Challenge | None = None
        self._basic: str | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._asking: dict[Scopes, asyncio.Task[_Token]] = {}

    async def authorization(self, scopes: Scopes) -> str | None:
        """The header to send, as far as it is known what is wanted. Raises HttpFailure."""
        if self._challenge is None:
            return f"Bearer {self._fixed_token}" if self._fixed_token else None
        if self._challenge.scheme == "basic":
            return self._basic
        token = self._tokens.get(scopes)
        now = self._clock()
        if token is None or now >= token.stale_at:
            token = await self._renew(scopes)
        elif now >= token.renew_at and scopes not in self._asking:
            token.renew_at = now + RENEW_AGAIN_S
            self._start(scopes)
        return f"Bearer {token.value}"

    async def answer(self, challenges: Sequence[Challenge], scopes: Scopes, sent: str | None) -> None:
        """A request that had `sent` was refused with 401: get what the next try may send.

        Raises HttpFailure when there is nothing else that can be tried.
        """
        known = {challenge.scheme: challenge for challenge in challenges}
        challenge = known.get("bearer") or known.get("basic")
        if challenge is None:
            raise self._failure("refuses us and does not say how to log in" if not known else _unknown(known))
        if self._challenge is not None and self._challenge.scheme == challenge.scheme:
            if challenge.scheme == "basic" and self._basic not in (None, sent):
                return  # others have found new credentials meanwhile
            token = self._tokens.get(scopes)
            if challenge.scheme == "bearer" and token is not None and f"Bearer {token.value}" != sent:
                return
        self._challenge = challenge
        if challenge.scheme == "basic":
            await self._answer_basic(sent)
        else:
            await self._renew(scopes)

    async def doubt(self, scopes: Scopes, sent: str | None) -> bool:
        """A request that had `sent` was refused with 403, which may mean that it has expired.

        Return whether there is something newer to send. Raises HttpFailure.
        """
        if self._challenge is None or sent is None:
            return False
        if self._challenge.scheme == "basic":
            login = await self._login()
            if login is None or not login.user or login.basic == sent:
                return False
            self._basic = login.basic
            return True
        token = self._tokens.get(scopes)
        if token is not None and f"Bearer {token.value}" == sent:
            if self._clock() - token.asked_at < NEW_S:
                return False
            await self._renew(scopes)
        return True

    def forget(self) -> None:
        """There are new credentials: what was made of the old ones is not used any more."""
        self._tokens.clear()
        self._fixed_token = ""
        self._basic = None
        if self._challenge is not None and self._challenge.scheme == "basic":
            self._challenge = None

    def close(self) -> None:
        for task in self._asking.values():
            task.cancel()

    async def _answer_basic(self, sent: str | None) -> None:
        login = await self._login()
        if login is None or not login.user:
            raise self._failure("wants a user and a password, and there are none for it")
        if login.basic == sent:
            raise self._failure(f"refuses the credentials ({login.source})")
        self._basic = login.basic

    async def _login(self) -> Login | None:
        try:
            return await self._credentials.current(direct=self._direct)
        except CredentialError as error:
            raise HttpFailure("auth", self._host, f"no credentials for it: {error}") from None

    # tokens

    async def _renew(self, scopes: Scopes) -> _Token:
        # a task of its own: the one who asks first may be cancelled, the others still want it
        task = self._asking.get(scopes) or self._start(scopes)
        return await asyncio.shield(task)

    def _start(self, scopes: Scopes) -> asyncio.Task[_Token]:
        task = asyncio.get_running_loop().create_task(self._ask(scopes))
        self._asking[scopes] = task

        def done(task: asyncio.Task[_Token]) -> None:
            if self._asking.get(scopes) is task:
                del self._asking[scopes]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.info("no new token: %s", error)  # whoever waits for it raises it

        task.add_done_callback(done)
        return task

    async def _ask(self, scopes: Scopes) -> _Token:
        challenge, now = self._challenge, self._clock()
        assert challenge is not None
        login = await self._login()
        try:
            document = await self._ask_as(challenge, scopes, login)
        except HttpFailure as failure:
            if failure.kind != "auth":
                raise
            whose = f"the credentials ({login.source})" if login else "us without credentials"
            raise HttpFailure(
                "auth", failure.host, f"refuses {whose} for {self._host}: {failure.reason}"
            ) from None
        value = document.get("token") or document.get("access_token")
        if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
            raise HttpFailure("auth", self._host, "its token server gives no token")
        life = document.get("expires_in")
        life = float(life) if isinstance(life, int | float) and life > 0 else DEFAULT_LIFE_S
        token = _Token(
            value,
            asked_at=now,
            renew_at=now + life * self._chance(*RENEW_PART),
            stale_at=now + life - min(MARGIN_S, life * MARGIN_PART),
        )
        self._tokens[scopes] = token
        return token

    async def _ask_as(self, challenge: Challenge, scopes: Scopes, login: Login | None) -> dict[str, Any]:
        realm = challenge.get("realm")
        try:
            host = host_of(realm)
        except ValueError:
            raise self._failure("names no token server that could be asked") from None
        if login is not None and self._secure and urlsplit(realm).scheme != "https":
            raise self._failure(f"wants the credentials sent to {host} without TLS, which is not done")
        wanted = list(dict.fromkeys([*scopes, *challenge.get("scope").split()]))
        fields = [("service", service)] if (service := challenge.get("service")) else []
        headers: dict[str, str] = {}
        method, url, data = "GET", realm, None
        if login is not None and login.identity_token:
            fields += [
                ("client_id", CLIENT_ID),
                ("grant_type", "refresh_token"),
                ("refresh_token", login.identity_token),
                ("scope", " ".join(wanted)),
            ]
            method, data = "POST", urlencode(fields).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            fields += [("scope", scope) for scope in wanted]
            if login is not None:
                headers["Authorization"] = login.basic
                fields.append(("account", login.user))
            url += ("&" if urlsplit(realm).query else "?") + urlencode(fields)
        self._pool.counters["token_requests"] += 1
        name = host if host == self._host else f"{host} (token server of {self._host})"
        async with self._pool.exchange(
            method,
            url,
            self._options,
            headers=headers,
            data=data,
            proxy=self._proxy or environment_proxy(url),
            name=name,
        ) as response:
            if response.status != 200:
                raise await refusal(response, name)
            body = await read_document(response, name, MAX_TOKEN_DOCUMENT)
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise HttpFailure("corrupt", name, "answers with what is no token document")
        return document

    def _failure(self, reason: str) -> HttpFailure:
        return HttpFailure("auth", self._host, reason)


def _unknown(known: dict[str, Challenge]) -> str:
    return f"wants a way to log in that is unknown here: {', '.join(sorted(known))[:80]}"
