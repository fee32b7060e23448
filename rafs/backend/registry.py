"""Blobs in an OCI registry: the blob with the id ID is `sha256:ID` in one repository.

The ways there (mirrors, a proxy) are `remote.py`'s, logging in and redirects `rafs/registry`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from msgspec.structs import replace

from rafs.backend.config import Registry
from rafs.backend.http import HttpPool
from rafs.backend.remote import http_options, make_routes
from rafs.errors import BackendConfigError, BlobNotFound
from rafs.registry.client import RegistryClient
from rafs.registry.credentials import Credentials
from rafs.registry.reference import is_host, registry_host
from rafs.secret import Secret

_SHA256 = re.compile(r"[0-9a-f]{64}")


class RegistryBackend:
    """A BlobBackend. The pool is the caller's."""

    def __init__(self, pool: HttpPool, config: Registry) -> None:
        """Connects to nothing yet. Raises BackendConfigError."""
        if not is_host(config.host):
            raise BackendConfigError("registry.host: it is no host, with or without a port")
        host = registry_host(config.host)
        base = f"{config.scheme}://{host}"
        self._pool = pool
        self._config = config
        self._base = base
        self._credentials = Credentials(host, config.repo, auth=config.auth.reveal() if config.auth else "")
        self._client = RegistryClient(
            pool,
            host,
            config.repo,
            scheme=config.scheme,
            options=http_options(config),
            credentials=self._credentials,
            fixed_token=config.registry_token.reveal() if config.registry_token else "",
            routes=make_routes(pool, config, base, config.proxy),
            redirect=self._redirected,
        )

    def set(self, settings: Mapping[str, str]) -> None:
        """Take new values of `registry_auth` and `proxy_url` for the requests to come; "" takes them back.

        Raises BackendConfigError.
        """
        if (url := settings.get("proxy_url")) is not None:
            proxy = replace(self._config.proxy, url=Secret(url)) if url else self._config.proxy
            self._client.set_routes(make_routes(self._pool, self._config, self._base, proxy))
        if (auth := settings.get("registry_auth")) is not None:
            self._credentials.set(auth)
            self._client.log_in_again()

    async def blob_size(self, blob_id: str) -> int:
        return await self._client.blobs.size(_digest(blob_id), what=f"blob {blob_id}")

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        if length == 0:
            return b""
        what = f"blob {blob_id}: {length} bytes at offset {offset}"
        return await self._client.blobs.read(_digest(blob_id), offset, length, again=again, what=what)

    async def close(self) -> None:
        self._client.close()

    def _redirected(self, url: str) -> str:
        """The URL of the storage, changed as the configuration wants."""
        scheme, host = self._config.blob_url_scheme, self._config.blob_redirected_host
        if not scheme and not host:
            return url
        parts = urlsplit(url)
        return urlunsplit(parts._replace(scheme=scheme or parts.scheme, netloc=host or parts.netloc))


def _digest(blob_id: str) -> str:
    if not _SHA256.fullmatch(blob_id):
        raise BlobNotFound(f"blob {blob_id[:80]!r}: a registry has no such blob, its id is no SHA-256")
    return f"sha256:{blob_id}"
