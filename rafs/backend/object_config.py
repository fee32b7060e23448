"""What the configuration of an object store means to obstore: the arguments of its classes. Pure.

`timeout` bounds a stall, not a request: how long that takes depends on the link. Requests are bounded by
REQUEST_TIMEOUT_S, which is how long a guest waits. obstore repeats nothing: `mirrors.Routes` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from rafs.backend.config import S3, Azure, Gcs, ObjectStore, Oss
from rafs.backend.http import USER_AGENT, host_of
from rafs.backend.mirrors import Route
from rafs.errors import BackendConfigError
from rafs.secret import Secret

REQUEST_TIMEOUT_S = 60
#: OSS has its S3 interface beside its own
_OSS_HOST = re.compile(r"(?:s3\.)?(oss-([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com(?::\d+)?)")


@dataclass(frozen=True)
class Bucket:
    """Where the objects are: a bucket or container of the store at `url`, and who may read it (secret)."""

    kind: Literal["s3", "gcs", "azure"]
    name: str
    url: SplitResult
    credentials: Mapping[str, Any] = field(repr=False)


def bucket_of(section: ObjectStore) -> Bucket:
    """What a configuration describes. Raises BackendConfigError."""
    if section.client_cert_file or section.client_key_file:
        raise BackendConfigError("client_cert_file, client_key_file: object stores are not asked with them")
    if "//" in section.object_prefix or section.object_prefix.startswith("/"):
        raise BackendConfigError("object_prefix: it must not begin with a slash, nor have two in a row")
    if isinstance(section, Azure):
        url = _url(section.endpoint or f"https://{section.account_name}.blob.core.windows.net")
        return Bucket("azure", section.container_name, url, _azure(section))
    if isinstance(section, Gcs):
        url = _url(section.endpoint or "https://storage.googleapis.com")
        return Bucket("gcs", section.bucket_name, url, _gcs(section))
    assert isinstance(section, Oss | S3)
    url, config = _oss(section) if isinstance(section, Oss) else _s3(section)
    if config["virtual_hosted_style_request"]:
        url = url._replace(netloc=f"{section.bucket_name}.{url.netloc}")
    return Bucket("s3", section.bucket_name, url, config)


def store_config(bucket: Bucket, route: Route) -> dict[str, Any]:
    """The `config` of the store, as it is reached on that way."""
    endpoint = route.rewritten(route.base) + bucket.url.path
    return {**bucket.credentials, "base_url" if bucket.kind == "gcs" else "endpoint": endpoint}


def client_options(section: ObjectStore, route: Route, certificates: bytes) -> dict[str, Any]:
    """Its `client_options`. `certificates`: the content of its CA files."""
    options: dict[str, Any] = {
        "allow_http": True,
        "allow_invalid_certificates": section.skip_verify,
        "timeout": timedelta(seconds=max(REQUEST_TIMEOUT_S, section.timeout)),
        "user_agent": USER_AGENT,
    }
    if section.timeout:
        options["read_timeout"] = timedelta(seconds=section.timeout)
    if section.connect_timeout:
        options["connect_timeout"] = timedelta(seconds=section.connect_timeout)
    if certificates:
        options["root_certificate"] = certificates
    if proxy := route.proxy_for(route.base):
        options["proxy_url"] = proxy
    if route.headers:
        options["default_headers"] = dict(route.headers)
    return options


def _s3(section: S3) -> tuple[SplitResult, dict[str, Any]]:
    domain = "amazonaws.com.cn" if section.region.startswith("cn-") else "amazonaws.com"
    url = _url(section.endpoint or f"s3.{section.region}.{domain}", section.scheme)
    config = _keys(section.access_key_id, section.access_key_secret)
    config |= {"region": section.region, "virtual_hosted_style_request": section.virtual_hosted}
    if section.session_token:
        config["session_token"] = section.session_token.reveal()
    return url, config


def _oss(section: Oss) -> tuple[SplitResult, dict[str, Any]]:
    """Buckets of OSS are parts of host names only; but an address cannot have a bucket before it."""
    url = _url(section.endpoint, section.scheme)
    region = section.region or "us-east-1"
    if match := _OSS_HOST.fullmatch(url.netloc):
        url = url._replace(netloc=f"s3.{match[1]}")
        region = section.region or match[2]
    config = _keys(section.access_key_id, section.access_key_secret)
    return url, config | {"region": region, "virtual_hosted_style_request": not _is_address(url)}


def _keys(name: Secret, secret: Secret) -> dict[str, Any]:
    if bool(name) != bool(secret):
        raise BackendConfigError("access_key_id and access_key_secret must be given both, or neither")
    if not name:
        return {"skip_signature": True}
    return {"access_key_id": name.reveal(), "secret_access_key": secret.reveal(), "skip_signature": False}


def _gcs(section: Gcs) -> dict[str, Any]:
    if section.service_account_file and section.service_account_key:
        raise BackendConfigError("service_account_file and service_account_key must not be given both")
    if section.service_account_file:
        return {"service_account": section.service_account_file}
    if section.service_account_key:
        return {"service_account_key": section.service_account_key.reveal()}
    return {"skip_signature": True}


def _azure(section: Azure) -> dict[str, Any]:
    if section.account_key and section.sas_token:
        raise BackendConfigError("account_key and sas_token must not be given both")
    config: dict[str, Any] = {"account_name": section.account_name}
    if section.account_key:
        return config | {"account_key": section.account_key.reveal()}
    if section.sas_token:
        return config | {"sas_key": section.sas_token.reveal()}
    return config | {"skip_signature": True}


def _url(text: str, scheme: str = "https") -> SplitResult:
    """The URL of an endpoint, which may be without a scheme."""
    try:
        url = urlsplit(text if "://" in text else f"{scheme}://{text}")
        plain = "@" not in url.netloc and not (url.query or url.fragment)
        if plain and url.scheme in ("http", "https") and host_of(url.geturl()):
            return url._replace(path=url.path.rstrip("/"))
    except ValueError:
        pass
    raise BackendConfigError("endpoint: it must be a host and port, or a URL with http:// or https://")


def _is_address(url: SplitResult) -> bool:
    try:
        ip_address(url.hostname or "")
    except ValueError:
        return False
    return True
