"""Ways to one server: its mirrors, a proxy, itself; in which order they are tried, and when again.

A `Route` is one way, `Health` what all back-ends of the process know of a mirror or a proxy, `Routes.run` the
loop: each usable way in turn, the server itself last; when all have failed and it may help, the round is
repeated after a pause that grows and has jitter, and that Retry-After makes longer.

A mirror or proxy that failed `failure_limit` times in a row is left out. One with a ping URL is pinged every
`interval_s` while it is in use, left out as long as that fails, and taken back when it succeeds; one without
is tried again with a real request once in an interval.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from rafs.backend.http import (
    LONGEST_RETRY_AFTER_S,
    HttpFailure,
    HttpOptions,
    HttpPool,
    blob_error,
    environment_proxy,
    host_of,
)

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

#: rounds after the first one, at least; nydusd itself takes its retry_limit of 0 for so many
RETRIES = 3
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0


class Health:
    """Whether a mirror or a proxy is worth trying."""

    def __init__(
        self,
        name: str,
        *,
        failure_limit: int = 5,
        interval_s: float = 5.0,
        idle_s: float = 300.0,
        ping: Callable[[], Awaitable[bool]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ping` tells whether it answers; it is called while there was a request in the last `idle_s`."""
        self._name = name
        self._failure_limit = max(1, failure_limit)
        self._interval_s = max(0.1, interval_s)
        self._idle_s = idle_s
        self._ping = ping
        self._clock = clock
        self._failures = 0
        self._last_use = clock()
        self._next_trial = float("-inf")
        self._is_on_trial = False
        self._pinging: asyncio.Task[None] | None = None
        self.is_well = True

    def is_usable(self) -> bool:
        """Whether to try it now. Starts the pings, which end by themselves when nobody asks any more."""
        now = self._last_use = self._clock()
        if self._ping is not None:
            if self._pinging is None or self._pinging.done():
                self._pinging = asyncio.get_running_loop().create_task(self._ping_while_used())
            return self.is_well
        if self.is_well:
            return True
        if now < self._next_trial:
            return False
        self._next_trial = now + self._interval_s
        self._is_on_trial = True
        return True

    def succeeded(self) -> None:
        """A request was answered well. One that began before it was left out does not bring it back."""
        if self.is_well or self._is_on_trial:
            self._failures = 0
            self._set(True, "a request succeeded")

    def failed(self, reason: str) -> None:
        self._failures += 1
        self._is_on_trial = False
        if self._failures >= self._failure_limit:
            if self.is_well:
                self._next_trial = self._clock() + self._interval_s
            self._set(False, reason)

    def close(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()

    async def _ping_while_used(self) -> None:
        assert self._ping is not None
        while self._clock() - self._last_use < self._idle_s:
            answers = await self._ping()
            if answers:
                self._failures = 0
            self._set(answers, "its ping is answered" if answers else "its ping is not answered")
            await asyncio.sleep(self._interval_s)

    def _set(self, is_well: bool, why: str) -> None:
        if is_well != self.is_well:
            self.is_well = is_well
            self._is_on_trial = False
            log.warning("%s is %s: %s", self._name, "used again" if is_well else "left out", why)


@dataclass(eq=False)
class Route:
    """One way to a server. `base` is scheme://host[:port], without a slash at the end.

    `name` is for people. `headers` go with each request; `proxy` is the URL of an HTTP proxy, which gets
    plain HTTP with `use_http`. `is_source`: what it answers is the server's own word: its "missing" is final.
    """

    base: str
    name: str
    proxy: str | None = field(default=None, repr=False)
    use_http: bool = False
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    health: Health | None = None
    is_source: bool = True

    def is_usable(self) -> bool:
        return self.health is None or self.health.is_usable()

    def proxy_for(self, url: str) -> str | None:
        return self.proxy or environment_proxy(url)

    def rewritten(self, url: str) -> str:
        """The URL as it has to be asked for on this way."""
        if self.use_http and url.startswith("https:"):
            parts = urlsplit(url)
            netloc = parts.netloc if parts.port else f"{parts.netloc}:443"
            return urlunsplit(parts._replace(scheme="http", netloc=netloc))
        return url


def pause_s(round_: int, jitter: Callable[[], float] = random.random) -> float:
    """How long to wait after a round, numbered from 0: twice as long each time, half of it by chance."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**round_)
    return longest * (1 + jitter()) / 2


class Routes:
    """The ways to one server, in the order of preference; the last one is a source."""

    def __init__(self, pool: HttpPool, options: HttpOptions, routes: Iterable[Route]) -> None:
        self._pool = pool
        self._rounds = 1 + max(RETRIES, options.retry_limit)
        self.routes = list(routes)

    async def run(
        self,
        what: str,
        attempt: Callable[[Route], Awaitable[_Result]],
        *,
        avoid: Route | None = None,
    ) -> _Result:
        """Return what `attempt` gives on the first way on which it does not raise HttpFailure.

        `what` leads the error, a BlobUnavailable. `avoid` comes last in the first round.
        """
        reasons: dict[Route, HttpFailure] = {}
        for round_ in range(self._rounds):
            for route in self._in_order(avoid if round_ == 0 else None):
                try:
                    await self._wait_turn(route)
                    result = await attempt(route)
                except HttpFailure as failure:
                    reasons.pop(route, None)  # the order is that of time
                    reasons[route] = failure
                    self._pool.counters[f"failed_{failure.kind}"] += 1
                    if route.health is not None and failure.kind in ("network", "corrupt"):
                        route.health.failed(failure.reason)
                else:
                    if route.health is not None:
                        route.health.succeeded()
                    return result
            verdict = next(reasons[route] for route in reversed(reasons) if route.is_source)
            too_long = (verdict.retry_after or 0) > LONGEST_RETRY_AFTER_S
            if not verdict.again or too_long or round_ + 1 == self._rounds:
                asks = f", asks to come back in {verdict.retry_after:.0f} s" if too_long else ""
                others = "".join(f"; {failure}" for failure in reasons.values() if failure is not verdict)
                raise blob_error(what, verdict, asks + others)
            self._pool.counters["retries"] += 1
            await asyncio.sleep((verdict.retry_after or 0) + pause_s(round_))
        raise AssertionError("the last round returns or raises")

    def _in_order(self, avoid: Route | None) -> list[Route]:
        """The usable ways. A mirror that wants to be left alone is; the source is waited for."""
        usable = [route for route in self.routes if route.is_usable()]
        order = [route for route in usable if route.is_source or not self._wait_s(route)]
        if not any(route.is_source for route in order):
            order.append(self.routes[-1])
        return sorted(order, key=lambda route: route is avoid)

    async def _wait_turn(self, route: Route) -> None:
        """Wait as long as the server asked for; not at all when no read would survive it."""
        wait_s = self._wait_s(route)
        if wait_s > LONGEST_RETRY_AFTER_S:
            reason = f"asked to be left alone, for {wait_s:.0f} s more"
            raise HttpFailure("network", route.name, reason, again=False)
        await asyncio.sleep(wait_s)

    def _wait_s(self, route: Route) -> float:
        return self._pool.host(host_of(route.rewritten(f"{route.base}/"))).wait_s
