"""The HTTP core of the back-ends: connections, TLS, deadlines, and what went wrong in words.

`HttpPool` is one for a process. `exchange` makes one request, once: it neither retries nor follows redirects
(`mirrors.py` and `registry/client.py` do). Whatever goes wrong comes out as `HttpFailure`, which says of what
kind it is and whether another try may help; `blob_error` makes the error of the house of it, at the edge.

Neither URLs nor headers are ever shown: both carry credentials.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rafs.backend.rate import Host, RateLimit
from rafs.errors import BlobAuthError, BlobCorrupt, BlobNetworkError, BlobNotFound, BlobUnavailable

if TYPE_CHECKING:  # aiohttp takes a quarter of a second to import; nydusd serves images without TLS in it
    import ssl

    import aiohttp

    from rafs.backend.mirrors import Health

Kind = Literal["auth", "network", "missing", "corrupt", "other"]
#: what a request sends: bytes, or what makes the stream of them (again, when the request is made again)
Data = bytes | Callable[[], AsyncIterable[bytes]]

#: a peer that sends less than this in a second, over `timeout_s`, has stalled
MIN_BYTES_PER_S = 1 << 10
#: of received data, before reading from the socket pauses
RECEIVE_BUFFER = 256 << 10
KEEPALIVE_S = 30.0
#: a server that asks to be left alone for longer is not waited for: a guest's read gives up after a minute
LONGEST_RETRY_AFTER_S = 30.0
#: nor is it left alone for longer than this: it may have meant something else
LONGEST_HOLD_OFF_S = 600.0
#: what nydusd's 0 ("no time-out") becomes: nothing may hang
LONGEST_TIMEOUT_S = 60.0
USER_AGENT = "vhostfs"

_ERRORS: dict[Kind, type[BlobUnavailable]] = {
    kind.kind: kind  # type: ignore[misc]
    for kind in (BlobUnavailable, BlobAuthError, BlobNetworkError, BlobNotFound, BlobCorrupt)
}


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How a server is spoken to. Times are seconds; files are PEM.

    `connect_timeout_s`: for the connection with its TLS. `timeout_s`: for the first byte of the answer, and
    for a stall in the body: at least MIN_BYTES_PER_S must come, counted over so long. `retry_limit`: tries
    after the first one; below `mirrors.RETRIES` that many.
    """

    connect_timeout_s: float = 5.0
    timeout_s: float = 5.0
    retry_limit: int = 0
    skip_verify: bool = False
    ca_cert_files: tuple[str, ...] = ()
    client_cert_file: str = ""
    client_key_file: str = ""


class HttpFailure(Exception):
    """One request did not give what was asked for. `host` is who is to blame, as the operator knows it.

    `status` is that of the answer, if there was one; `retry_after` is in seconds, if it said so; `again`:
    whether the same request may do better.
    """

    def __init__(
        self,
        kind: Kind,
        host: str,
        reason: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        again: bool | None = None,
    ) -> None:
        super().__init__(f"{host}: {reason}")
        self.kind = kind
        self.host = host
        self.reason = reason
        self.status = status
        self.retry_after = retry_after
        self.again = kind in ("network", "corrupt") if again is None else again


def blob_error(what: str, failure: HttpFailure, others: str = "") -> BlobUnavailable:
    """The error of the house: `what` names the thing and the range, `others` what came of other sources."""
    return _ERRORS[failure.kind](f"{what}: {failure}{others}")


def host_of(url: str) -> str:
    """Host and port of a URL, for people and as a key. Raises ValueError."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("it is no URL with a host")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{name}:{parts.port}" if parts.port else name


def parse_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds from a Retry-After header: a number or a date. None when there is none that can be read."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(min(int(value), 1 << 31))
    try:
        when = email.utils.parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None
    return max(0.0, when - (time.time() if now is None else now))


def timeout_of(seconds: float) -> float:
    """A time-out of nydusd's configuration, where 0 means none."""
    return min(seconds or LONGEST_TIMEOUT_S, LONGEST_TIMEOUT_S)


def environment_proxy(url: str) -> str | None:
    """The proxy that the environment (http_proxy, https_proxy, no_proxy) names for a URL."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return getproxies().get(parts.scheme)


class HttpPool:
    """The connections of this process, shared by all back-ends. Used on one event loop; `close` it there.

    `limit` holds for each host by itself. In `health` mirrors.py keeps what all back-ends know of a mirror.
    """

    def __init__(self, limit: RateLimit | None = None) -> None:
        self._limit = limit or RateLimit()
        self._hosts: dict[str, Host] = {}
        self._sessions: dict[str, aiohttp.ClientSession] = {}  # by unix socket; "" is TCP
        self._tls: dict[tuple[object, ...], ssl.SSLContext] = {}
        self.health: dict[tuple[str, ...], Health] = {}
        #: "requests", "retries", "token_requests", answers by class ("2xx"), failures by kind ("failed_auth")
        self.counters: Counter[str] = Counter()

    def host(self, name: str) -> Host:
        """What is known of a host, by the name that `host_of` gives."""
        found = self._hosts.get(name)
        if found is None:
            found = self._hosts[name] = Host(self._limit)
        return found

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: str,
        options: HttpOptions,
        *,
        headers: Mapping[str, str] | None = None,
        data: Data | None = None,
        length: int = 0,
        proxy: str | None = None,
        unix_socket: str = "",
        name: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and give its answer, whatever its status; the body is read in the block.

        `length`: how many bytes of body are sent or expected. `proxy` is the URL of an HTTP proxy. `name`:
        how the server is called in errors, by default its host. Raises HttpFailure, from the block too.
        """
        import aiohttp

        try:
            host = unix_socket or host_of(url)
        except ValueError as error:
            raise HttpFailure("other", name or "back-end", f"not a URL to ask: {error}") from None
        name = name or host
        async with self.host(host).turn(length):
            self.counters["requests"] += 1
            try:
                tls = await self._tls_of(options, name) if "https:" in (url[:6], (proxy or "")[:6]) else True
                deadline = options.connect_timeout_s + options.timeout_s
                if data is not None:
                    deadline += length / MIN_BYTES_PER_S
                timeout = aiohttp.ClientTimeout(
                    total=None, sock_connect=options.connect_timeout_s, sock_read=options.timeout_s
                )
                async with asyncio.timeout(deadline):
                    response = await self._session(unix_socket).request(
                        method,
                        url,
                        headers=headers,
                        data=data() if callable(data) else data,
                        proxy=proxy,
                        ssl=tls,
                        allow_redirects=False,
                        timeout=timeout,
                    )
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise failure_of(error, name, options) from None
            self.counters[f"{response.status // 100}xx"] += 1
            if response.status >= 400 and (pause := parse_retry_after(response.headers.get("Retry-After"))):
                self.host(host).hold_off(min(pause, LONGEST_HOLD_OFF_S))
            try:
                yield response
            except (aiohttp.ClientError, TimeoutError) as error:
                raise failure_of(error, name, options) from None
            finally:
                if response.content.is_eof():
                    response.release()
                else:
                    response.close()  # never a connection with somebody's body left in it

    async def close(self) -> None:
        """No exchange is going on."""
        for health in self.health.values():
            health.close()
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, unix_socket: str) -> aiohttp.ClientSession:
        import aiohttp

        session = self._sessions.get(unix_socket)
        if session is None:
            # how many at once is `Host.turn`'s to say
            connector = (
                aiohttp.UnixConnector(unix_socket, limit=0, keepalive_timeout=KEEPALIVE_S)
                if unix_socket
                else aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=30)
            )
            session = self._sessions[unix_socket] = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                read_bufsize=RECEIVE_BUFFER,
            )
        return session

    async def _tls_of(self, options: HttpOptions, name: str) -> ssl.SSLContext:
        """The context of these options, made anew when one of their files has changed."""
        files = [*options.ca_cert_files, options.client_cert_file, options.client_key_file]
        try:
            stamps = tuple(os.stat(file).st_mtime_ns for file in files if file)  # noqa: PTH116
            key = (options.skip_verify, *files, *stamps)
            context = self._tls.get(key)
            if context is None:
                context = self._tls[key] = await asyncio.to_thread(make_tls, options)
        except OSError as error:  # ssl.SSLError too
            named = error.filename or " or ".join(file for file in files if file)
            reason = f"cannot use {named} for TLS: {error.strerror or error}"
            raise HttpFailure("other", name, reason) from None
        return context


def make_tls(options: HttpOptions) -> ssl.SSLContext:
    """The machine's trusted CAs and those of the options. Raises OSError, ssl.SSLError."""
    import ssl

    context = ssl.create_default_context()
    if options.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for file in options.ca_cert_files:
        context.load_verify_locations(file)
    if options.client_cert_file:
        context.load_cert_chain(options.client_cert_file, options.client_key_file or None)
    return context


def failure_of(error: Exception, host: str, options: HttpOptions) -> HttpFailure:
    """What an exception of the client means, in words that show no URL."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or "verification failed"
        remedy = "name its CA in ca_cert_files, or set skip_verify"
        return HttpFailure(
            "network", host, f"its certificate is not trusted ({reason}); {remedy}", again=False
        )
    if isinstance(error, aiohttp.ClientSSLError):
        cause = error.os_error
        reason = getattr(cause, "reason", None) or cause.strerror or "handshake failed"
        return HttpFailure("network", host, f"no TLS with it: {reason}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return HttpFailure("network", host, f"the proxy answers {error.status} to CONNECT")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return HttpFailure("network", host, f"no connection within {options.connect_timeout_s:g} s")
    if isinstance(error, TimeoutError):
        return HttpFailure("network", host, f"no answer within {options.timeout_s:g} s")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return HttpFailure("network", host, "its name cannot be resolved")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return HttpFailure("network", host, f"no connection to the proxy: {_words(error)}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return HttpFailure("network", host, f"no connection: {_words(error)}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return HttpFailure("network", host, "it closed the connection without an answer")
    if isinstance(error, aiohttp.ClientPayloadError):
        return HttpFailure("network", host, "the body ended too early")
    if isinstance(error, aiohttp.ClientOSError | OSError):
        return HttpFailure("network", host, f"the connection broke: {_words(error)}")
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return HttpFailure("other", host, "not a URL or header that can be sent")
    return HttpFailure("corrupt", host, "what it answers is no HTTP")


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else error.strerror or "it failed"
