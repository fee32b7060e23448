"""Ways to a server: their order, who is left out and when it is tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from rafs.backend.config import Mirror, Proxy, Registry
from rafs.backend.http import HttpFailure, HttpOptions, HttpPool
from rafs.backend.mirrors import RETRIES, Health, Route, Routes, pause_s
from rafs.backend.remote import http_options, make_routes
from rafs.errors import BackendConfigError, BlobNetworkError, BlobNotFound
from rafs.secret import Secret
from tests.fakes.registry import FakeRegistry


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """A route of which a test says what it answers; "ok" is the answer of a good one."""

    def __init__(self, name: str, *, is_source: bool = False, health: Health | None = None) -> None:
        self.route = Route(f"http://{name}", name, is_source=is_source, health=health)
        self.failure: HttpFailure | None = None
        self.asked = 0


class Setting:
    """Some servers in the order of preference."""

    def __init__(self, *servers: Server, retry_limit: int = 0) -> None:
        self.servers = {server.route: server for server in servers}
        self.pool = HttpPool()
        self.routes = Routes(self.pool, HttpOptions(retry_limit=retry_limit), self.servers)

    async def ask(self, avoid: Server | None = None) -> str:
        async def attempt(route: Route) -> str:
            server = self.servers[route]
            server.asked += 1
            if server.failure is not None:
                raise server.failure
            return route.name

        return await self.routes.run("the thing", attempt, avoid=avoid.route if avoid else None)


def down(name: str) -> HttpFailure:
    return HttpFailure("network", name, "no connection")


async def test_the_first_that_answers_counts() -> None:
    a, b, source = Server("a"), Server("b"), Server("source", is_source=True)
    setting = Setting(a, b, source)
    assert await setting.ask() == "a"
    assert await setting.ask(avoid=a) == "b"
    a.failure = down("a")
    assert await setting.ask() == "b"
    b.failure = HttpFailure("missing", "b", "answers 404")
    assert await setting.ask() == "source"
    assert setting.pool.counters["retries"] == 0


async def test_the_sources_verdict_is_final() -> None:
    a, source = Server("a"), Server("source", is_source=True)
    setting = Setting(a, source)
    a.failure, source.failure = down("a"), HttpFailure("missing", "source", "answers 404")
    with pytest.raises(BlobNotFound) as info:
        await setting.ask()
    assert str(info.value) == "the thing: source: answers 404; a: no connection"
    assert (a.asked, source.asked) == (1, 1)


@pytest.mark.parametrize("retry_limit", [0, 2, 5])
async def test_rounds(retry_limit: int) -> None:
    source = Server("source", is_source=True)
    setting = Setting(source, retry_limit=retry_limit)
    source.failure = down("source")
    with pytest.raises(BlobNetworkError, match="the thing: source: no connection"):
        await setting.ask()
    assert source.asked == 1 + max(RETRIES, retry_limit)


def test_pauses_double_and_have_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rafs.backend.mirrors.FIRST_PAUSE_S", 0.25)
    assert [pause_s(round_, lambda: 1.0) for round_ in range(7)] == [0.25, 0.5, 1, 2, 4, 8, 8]
    assert pause_s(2, lambda: 0.0) == 0.5
    assert len({pause_s(2) for _ in range(9)}) > 1


async def test_one_without_a_ping_is_left_out_and_tried_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    health = Health("mirror a", failure_limit=2, interval_s=10, clock=clock)
    a, source = Server("a", health=health), Server("source", is_source=True)
    setting = Setting(a, source)
    a.failure = down("a")
    for _ in range(5):
        assert await setting.ask() == "source"
    assert a.asked == 2
    assert caplog.messages == ["mirror a is left out: no connection"]
    health.succeeded()  # a request that began before
    assert not health.is_well
    clock.now = 11
    for _ in range(5):
        assert await setting.ask() == "source"
    assert a.asked == 3
    clock.now = 22
    a.failure = None
    assert await setting.ask() == "a"
    assert await setting.ask() == "a"
    assert caplog.messages[1:] == ["mirror a is used again: a request succeeded"]


async def test_a_missing_blob_or_a_refusal_does_not_make_a_mirror_ill() -> None:
    health = Health("mirror a", failure_limit=1)
    a, source = Server("a", health=health), Server("source", is_source=True)
    setting = Setting(a, source)
    for kind in ("missing", "auth", "other"):
        a.failure = HttpFailure(kind, "a", "no")
        assert await setting.ask() == "source"
    assert health.is_well


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_one_with_a_ping_follows_it() -> None:
    answers, pings, clock = True, 0, Clock()

    async def ping() -> bool:
        nonlocal pings
        pings += 1
        return answers

    health = Health("proxy", failure_limit=2, interval_s=0.1, idle_s=50, ping=ping, clock=clock)
    assert health.is_usable()
    await until(lambda: pings > 0)
    answers = False
    await until(lambda: not health.is_usable())
    answers = True
    await until(health.is_usable)
    health.failed("x")
    health.failed("y")
    assert not health.is_usable()
    await until(health.is_usable)
    clock.now = 60  # nobody has used it for long
    before = health._pinging
    assert before is not None
    await before
    seen = pings
    assert health.is_usable() and health._pinging is not before  # and now somebody has
    await until(lambda: pings > seen)
    health.close()


# from the configuration


@pytest.fixture
def pool() -> HttpPool:
    return HttpPool()


def test_routes_of_a_configuration(pool: HttpPool) -> None:
    remote = Registry(
        host="reg",
        mirrors=[
            Mirror(host="http://127.0.0.1:65001", headers={"X-Dragonfly-Registry": Secret("https://reg")}),
            Mirror(host="mirror.example"),
            Mirror(host=""),
        ],
    )
    first, second, source = make_routes(pool, remote, "https://reg", remote.proxy)
    assert (first.base, first.name, first.is_source) == (
        "http://127.0.0.1:65001",
        "mirror 127.0.0.1:65001",
        False,
    )
    assert first.headers == {"X-Dragonfly-Registry": "https://reg"}
    assert second.base == "https://mirror.example"
    assert (source.base, source.name, source.proxy, source.is_source) == ("https://reg", "reg", None, True)
    again = make_routes(pool, remote, "https://reg", remote.proxy)
    assert again[0].health is first.health and again[0] is not first  # known once in the process


def test_a_proxy_goes_first_and_its_fallback_last(pool: HttpPool) -> None:
    proxy = Proxy(url=Secret("http://me:secret@127.0.0.1:65001"), use_http=True)
    way, source = make_routes(pool, Registry(host="reg"), "https://reg", proxy)
    assert way.name == "reg through proxy 127.0.0.1:65001"
    assert way.proxy_for("https://reg/x") == "http://me:secret@127.0.0.1:65001"
    assert way.rewritten("https://reg/x?y") == "http://reg:443/x?y"
    assert way.rewritten("https://reg:5000/x") == "http://reg:5000/x"
    assert way.rewritten("http://storage/x") == "http://storage/x"
    assert source.rewritten("https://reg/x") == "https://reg/x" and source.proxy is None
    (only,) = make_routes(pool, Registry(host="reg"), "https://reg", Proxy(url=proxy.url, fallback=False))
    assert only.proxy and not only.use_http


@pytest.mark.parametrize("url", ["127.0.0.1:65001", "socks5://x", "http://", "http://[x"])
def test_what_is_no_url_names_its_field(pool: HttpPool, url: str) -> None:
    with pytest.raises(BackendConfigError, match=r"^proxy\.url: it is no URL"):
        make_routes(pool, Registry(host="reg"), "https://reg", Proxy(url=Secret(url)))
    with pytest.raises(BackendConfigError, match=r"^ping_url: "):
        ping = Proxy(url=Secret("http://p"), ping_url=Secret(url))
        make_routes(pool, Registry(host="reg"), "https://reg", ping)


def test_times_of_a_configuration() -> None:
    options = http_options(Registry(timeout=0, connect_timeout=7, retry_limit=9, ca_cert_files=["a"]))
    assert (options.timeout_s, options.connect_timeout_s, options.retry_limit) == (60, 7, 9)
    assert options.ca_cert_files == ("a",)


async def test_pings_of_a_configuration(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool = HttpPool()
    async with FakeRegistry() as registry:
        remote = Registry(host="reg", mirrors=[Mirror(host=registry.url, health_check_interval=0)])
        registry.login = "basic"  # it lives all the same
        (mirror, _) = make_routes(pool, remote, "https://reg", remote.proxy)
        assert mirror.is_usable()
        await until(lambda: len(registry.requests) > 1)
        assert {seen.path for seen in registry.requests} == {"/v2/"} and mirror.is_usable()
        proxy = Proxy(url=Secret(registry.url), ping_url=Secret(f"{registry.url}/v2/"), check_interval=0)
        (way, _) = make_routes(pool, Registry(host="reg"), "https://reg", proxy)
        await until(lambda: not way.is_usable())  # 401 is not the word of a proxy that works
        registry.login = ""
        await until(way.is_usable)
    await until(lambda: not mirror.is_usable())
    await pool.close()
