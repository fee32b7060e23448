"""Blobs in S3, OSS, GCS or Azure, through obstore: it has their protocols, signatures and connections.

The ways there are those of `remote.py`, each with a store of its own. What obstore raises is sorted here into
the failures of `http.py`. Its own texts have URLs, headers and answers in them, which may be secret, so that
only a status, an error code or words of ours are passed on.

Heavy to import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from rafs.backend.config import ObjectStore
from rafs.backend.http import HttpFailure, HttpPool, Kind, host_of
from rafs.backend.mirrors import Route, Routes
from rafs.backend.object_config import Bucket, bucket_of, client_options, store_config
from rafs.backend.remote import http_options, make_routes
from rafs.blob_record import parse_blob_id
from rafs.errors import BackendConfigError

Store = S3Store | GCSStore | AzureStore
_Result = TypeVar("_Result")

_CLASSES: dict[str, Callable[..., Store]] = {"s3": S3Store, "gcs": GCSStore, "azure": AzureStore}
#: environment variables from which obstore fills in what a configuration leaves out
_READ_BY_OBSTORE = ("AWS_", "AZURE_", "GOOGLE_")

_STATUS = re.compile(r"\bstatus: (\d{3})\b")
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")
_TOO_MUCH_TO_DO = (408, 425, 429)
#: What obstore's texts have in them, most telling first. The names are of its types, and of Linux's errors.
_PHRASES: tuple[tuple[str, Kind, str], ...] = (
    ("NotPartial", "corrupt", "sends the whole blob where a range was asked for (200 instead of 206)"),
    ("UnexpectedRange", "corrupt", "answers with another range"),
    ("ContentRange", "corrupt", "answers without a Content-Range that can be read"),
    ("StartTooLarge", "corrupt", "has a blob that ends before that"),
    ("source: Header", "corrupt", "answers without the headers that belong to an object"),
    ("BareRedirect", "other", "redirects, as for another region"),
    ("InvalidCertificate", "network", "its certificate is not trusted; name its CA in ca_cert_files"),
    ("dns error", "network", "its name cannot be resolved"),
    ("Connection refused", "network", "no connection: Connection refused"),
    ("kind: Connect,", "network", "no connection"),
    ("kind: Timeout", "network", "no answer in time"),
    ("TimedOut", "network", "no answer in time"),
    ("IncompleteMessage", "network", "the connection broke"),
    ("UnexpectedEof", "network", "the body ended too early"),
    ("Connection reset", "network", "the connection broke"),
)


class ObjectStoreBackend:
    """One bucket or container, and the blobs in it. Is asked through the pool's limits, as all are."""

    def __init__(self, pool: HttpPool, section: ObjectStore) -> None:
        """Connects to nothing yet. Raises BackendConfigError."""
        bucket = bucket_of(section)
        base = f"{bucket.url.scheme}://{bucket.url.netloc}"
        routes = make_routes(pool, section, base, section.proxy)
        certificates = _certificates(section.ca_cert_files)
        self._stores = {route: _open(bucket, section, route, certificates) for route in routes}
        self._routes = Routes(pool, http_options(section), routes)
        self._pool = pool
        self._bucket = bucket.name
        self._prefix = section.object_prefix
        self._last: Route | None = None

    async def blob_size(self, blob_id: str) -> int:
        key = self._prefix + parse_blob_id(blob_id)

        async def attempt(route: Route) -> int:
            asking = obstore.head_async(self._stores[route], key)
            return (await self._exchange(route, asking, 0))["size"]

        return await self._routes.run(f"blob {blob_id}: size in bucket {self._bucket!r}", attempt)

    async def read_range(self, blob_id: str, offset: int, length: int, *, again: bool = False) -> bytes:
        if length == 0:
            return b""
        key = self._prefix + parse_blob_id(blob_id)

        async def attempt(route: Route) -> bytes:
            asking = obstore.get_range_async(self._stores[route], key, start=offset, length=length)
            data = bytes(await self._exchange(route, asking, length))
            if len(data) != length:
                raise HttpFailure("corrupt", route.name, f"sends {len(data)} bytes")
            self._last = route
            return data

        what = f"blob {blob_id}: {length} bytes at offset {offset} in bucket {self._bucket!r}"
        return await self._routes.run(what, attempt, avoid=self._last if again else None)

    async def close(self) -> None:
        """Connections end with the stores, when nobody has them any more."""

    async def _exchange(self, route: Route, asking: Awaitable[_Result], length: int) -> _Result:
        counters = self._pool.counters
        async with self._pool.host(host_of(route.base)).turn(length):
            counters["requests"] += 1
            try:
                answer = await asking
            except (BaseError, OSError) as error:
                failure = _failure_of(error, route.name)
                if failure.status is not None:
                    counters[f"{failure.status // 100}xx"] += 1
                raise failure from None
        counters["2xx"] += 1
        return answer


def _certificates(files: list[str]) -> bytes:
    try:
        return b"\n".join(Path(name).read_bytes() for name in files)
    except OSError as error:
        raise BackendConfigError(f"ca_cert_files: cannot read {error.filename}: {error.strerror}") from None


def _open(bucket: Bucket, section: ObjectStore, route: Route, certificates: bytes) -> Store:
    for name in [name for name in os.environ if name.startswith(_READ_BY_OBSTORE)]:
        del os.environ[name]
    try:
        return _CLASSES[bucket.kind](
            bucket.name,
            config=store_config(bucket, route),
            client_options=client_options(section, route, certificates),
            retry_config={"max_retries": 0},
        )
    except ValueError:  # its text may quote the file
        raise BackendConfigError("ca_cert_files: there is no certificate in PEM in them") from None
    except (BaseError, OSError):
        # the URLs are known to be good
        raise BackendConfigError("the credentials are not of the form that they should have") from None


def _failure_of(error: Exception, host: str) -> HttpFailure:
    """What an exception of obstore means, in words that show no URL and no answer."""
    text = str(error)
    status = int(match[1]) if (match := _STATUS.search(text)) else None
    code = f" ({match[1]})" if (match := _CODE.search(text)) else ""
    if isinstance(error, FileNotFoundError):
        what = "bucket" if "Bucket" in code or "Container" in code else "blob"
        return HttpFailure("missing", host, f"has no such {what}", status=404)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return HttpFailure("auth", host, f"refuses us{code or '; are the credentials right?'}", status=status)
    if status is not None:
        kind: Kind = "network" if status >= 500 or status in _TOO_MUCH_TO_DO else "other"
        kind = "corrupt" if status == 416 else kind
        return HttpFailure(kind, host, f"answers {status}{code}", status=status, again=kind == "network")
    for phrase, kind, reason in _PHRASES:
        if phrase in text:
            return HttpFailure(kind, host, reason)
    return HttpFailure("network", host, "the request failed")
