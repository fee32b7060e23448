"""From the configuration of a remote back-end to what the HTTP core takes: options, and ways to the server.

Mirrors come first, in their order; then the proxy, if there is one; then the server itself, unless the proxy
has no `fallback`. A mirror is pinged at its `ping_url` or at /v2/, and lives if that answers below 500; a
proxy is pinged at its `ping_url` only, and lives if that answers below 400 (as nydusd has it).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from rafs.backend.config import Mirror, Proxy, Remote
from rafs.backend.http import HttpFailure, HttpOptions, HttpPool, host_of, timeout_of
from rafs.backend.mirrors import Health, Route
from rafs.errors import BackendConfigError

#: failures in a row after which a proxy without ping_url is left out for its check_interval
PROXY_FAILURE_LIMIT = 3


def http_options(remote: Remote) -> HttpOptions:
    """How the servers of this back-end are spoken to."""
    return HttpOptions(
        connect_timeout_s=timeout_of(remote.connect_timeout),
        timeout_s=timeout_of(remote.timeout),
        retry_limit=remote.retry_limit,
        skip_verify=remote.skip_verify,
        ca_cert_files=tuple(remote.ca_cert_files),
        client_cert_file=remote.client_cert_file,
        client_key_file=remote.client_key_file,
    )


def make_routes(pool: HttpPool, remote: Remote, base: str, proxy: Proxy) -> list[Route]:
    """The ways to the server at `base` (scheme://host). `proxy` may be newer than `remote`.

    Raises BackendConfigError.
    """
    options = http_options(remote)
    routes = [_mirror(pool, options, mirror, base) for mirror in remote.mirrors if mirror.host]
    source = Route(base, host_of(base))
    if not proxy.url:
        return [*routes, source]
    url = _checked(proxy.url.reveal(), "proxy.url", ("http", "https"))
    name = f"{source.name} through proxy {host_of(url)}"
    health = _health(
        pool,
        options,
        f"proxy {host_of(url)}",
        proxy.ping_url.reveal(),
        limit=400,
        failure_limit=PROXY_FAILURE_LIMIT,
        interval_s=proxy.check_interval,
        idle_s=proxy.check_pause_elapsed,
    )
    routes.append(Route(base, name, proxy=url, use_http=proxy.use_http, health=health))
    return [*routes, source] if proxy.fallback else routes


def _mirror(pool: HttpPool, options: HttpOptions, mirror: Mirror, base: str) -> Route:
    host = mirror.host if "://" in mirror.host else f"{urlsplit(base).scheme}://{mirror.host}"
    url = _checked(host.rstrip("/"), "mirrors.host", ("http", "https"))
    name = f"mirror {host_of(url)}"
    health = _health(
        pool,
        options,
        name,
        mirror.ping_url or f"{url}/v2/",
        limit=500,
        failure_limit=mirror.failure_limit,
        interval_s=mirror.health_check_interval,
        idle_s=Proxy().check_pause_elapsed,
    )
    headers = {key: value.reveal() for key, value in mirror.headers.items()}
    return Route(url, name, headers=headers, health=health, is_source=False)


def _health(
    pool: HttpPool,
    options: HttpOptions,
    name: str,
    ping_url: str,
    *,
    limit: int,
    failure_limit: int,
    interval_s: float,
    idle_s: float,
) -> Health:
    """What all back-ends of the process that name this mirror or proxy alike know of it."""
    if ping_url:
        _checked(ping_url, "ping_url", ("http", "https"))

    async def ping() -> bool:
        try:
            async with pool.exchange("GET", ping_url, options, name=name) as response:
                return response.status < limit
        except HttpFailure:
            return False

    key = (name, ping_url, str(failure_limit), str(interval_s), str(idle_s))
    health = pool.health.get(key)
    if health is None:
        health = pool.health[key] = Health(
            name,
            failure_limit=failure_limit,
            interval_s=interval_s,
            idle_s=idle_s,
            ping=ping if ping_url else None,
        )
    return health


def _checked(url: str, field: str, schemes: tuple[str, ...]) -> str:
    try:
        if urlsplit(url).scheme in schemes and host_of(url):
            return url
    except ValueError:
        pass
    raise BackendConfigError(f"{field}: it is no URL that begins with {' or '.join(schemes)}, and has a host")
