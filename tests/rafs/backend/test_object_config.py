"""What configurations of object stores mean: addresses, credentials, limits; and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rafs.backend.config import S3, Azure, Gcs, Mirror, ObjectStore, Oss, Proxy
from rafs.backend.http import HttpPool
from rafs.backend.object_config import bucket_of, client_options, store_config
from rafs.backend.remote import make_routes
from rafs.errors import BackendConfigError
from rafs.secret import Secret

KEYS: dict[str, Any] = {"access_key_id": Secret("name"), "access_key_secret": Secret("hunter2")}


def configs(section: ObjectStore) -> list[dict[str, Any]]:
    """What the stores are given, one for each way."""
    bucket = bucket_of(section)
    routes = make_routes(HttpPool(), section, f"{bucket.url.scheme}://{bucket.url.netloc}", section.proxy)
    return [
        store_config(bucket, route) | {"options": client_options(section, route, b"")} for route in routes
    ]


def s3(**fields: Any) -> S3:
    return S3(**{"bucket_name": "b", "region": "eu-west-3", **fields})


def oss(endpoint: str, **fields: Any) -> Oss:
    return Oss(bucket_name="b", endpoint=endpoint, **fields)


@pytest.mark.parametrize(
    ("section", "endpoint", "virtual_hosted"),
    [
        (s3(), "https://s3.eu-west-3.amazonaws.com", False),
        (s3(region="cn-north-1"), "https://s3.cn-north-1.amazonaws.com.cn", False),
        (s3(endpoint="minio:9000", scheme="http"), "http://minio:9000", False),
        (s3(endpoint="http://minio:9000/"), "http://minio:9000", False),
        (s3(endpoint="gateway/s3"), "https://gateway/s3", False),
        (s3(virtual_hosted=True), "https://b.s3.eu-west-3.amazonaws.com", True),
        (oss("oss-cn-hangzhou.aliyuncs.com"), "https://b.s3.oss-cn-hangzhou.aliyuncs.com", True),
        (oss("s3.oss-cn-hangzhou.aliyuncs.com"), "https://b.s3.oss-cn-hangzhou.aliyuncs.com", True),
        (
            oss("oss-us-west-1-internal.aliyuncs.com", scheme="http"),
            "http://b.s3.oss-us-west-1-internal.aliyuncs.com",
            True,
        ),
        (oss("oss.example"), "https://b.oss.example", True),
        (oss("127.0.0.1:80"), "https://127.0.0.1:80", False),
        (oss("[::1]:80"), "https://[::1]:80", False),
    ],
)
def test_where_the_bucket_is(section: ObjectStore, endpoint: str, virtual_hosted: bool) -> None:
    [config] = configs(section)
    assert (config["endpoint"], config["virtual_hosted_style_request"]) == (endpoint, virtual_hosted)


@pytest.mark.parametrize(
    ("section", "region"),
    [
        (s3(), "eu-west-3"),
        (oss("oss-cn-hangzhou.aliyuncs.com"), "cn-hangzhou"),
        (oss("oss-cn-hangzhou-internal.aliyuncs.com:8080"), "cn-hangzhou"),
        (oss("oss-cn-hangzhou.aliyuncs.com", region="mine"), "mine"),
        (oss("oss.example"), "us-east-1"),
    ],
)
def test_regions(section: ObjectStore, region: str) -> None:
    assert configs(section)[0]["region"] == region


def test_credentials() -> None:
    assert configs(s3())[0]["skip_signature"] is True
    [config] = configs(s3(**KEYS, session_token=Secret("token")))
    assert config["skip_signature"] is False
    given = [config[name] for name in ("access_key_id", "secret_access_key", "session_token")]
    assert given == ["name", "hunter2", "token"]
    assert configs(Gcs(bucket_name="b"))[0]["skip_signature"] is True
    [config] = configs(Azure(account_name="a", container_name="c", account_key=Secret("k")))
    assert (config["endpoint"], config["account_key"]) == ("https://a.blob.core.windows.net", "k")
    assert "hunter2" not in repr(bucket_of(s3(**KEYS)))


def test_timeouts_tls_and_retries_of_the_configuration() -> None:
    options = configs(s3(timeout=7, connect_timeout=3, skip_verify=True))[0]["options"]
    assert options["read_timeout"] == timedelta(seconds=7)
    assert options["connect_timeout"] == timedelta(seconds=3)
    assert options["allow_invalid_certificates"] is True
    assert options["timeout"] == timedelta(seconds=60)
    options = configs(s3(timeout=0, connect_timeout=0))[0]["options"]
    assert "read_timeout" not in options and "connect_timeout" not in options


def test_mirrors_and_proxies_are_ways_of_their_own() -> None:
    mirror = Mirror(host="http://mirror:1", headers={"X-Dragonfly-Registry": Secret("hunter2")})
    proxy = Proxy(url=Secret("http://user:hunter2@proxy:2"), use_http=True)
    first, second, third = configs(s3(mirrors=[mirror], proxy=proxy))
    assert first["endpoint"] == "http://mirror:1"
    assert first["options"]["default_headers"] == {"X-Dragonfly-Registry": "hunter2"}
    assert second["endpoint"] == "http://s3.eu-west-3.amazonaws.com:443"
    assert second["options"]["proxy_url"] == "http://user:hunter2@proxy:2"
    assert third["endpoint"] == "https://s3.eu-west-3.amazonaws.com"
    assert "proxy_url" not in third["options"] and "default_headers" not in third["options"]


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (s3(access_key_id=Secret("hunter2")), "access_key_id and access_key_secret"),
        (s3(access_key_secret=Secret("hunter2")), "access_key_id and access_key_secret"),
        (s3(endpoint="ftp://hunter2"), "endpoint: it must be"),
        (s3(endpoint="user:hunter2@host"), "endpoint: it must be"),
        (s3(endpoint="host?hunter2"), "endpoint: it must be"),
        (s3(endpoint="host:port"), "endpoint: it must be"),
        (s3(object_prefix="/x"), "object_prefix: "),
        (s3(object_prefix="a//x"), "object_prefix: "),
        (s3(client_cert_file="/c"), "client_cert_file"),
        (Azure(account_key=Secret("hunter2"), sas_token=Secret("hunter2")), "account_key and sas_token"),
        (Gcs(service_account_file="f", service_account_key=Secret("hunter2")), "must not be given both"),
    ],
)
def test_what_cannot_be_is_refused_by_name(section: ObjectStore, reason: str) -> None:
    with pytest.raises(BackendConfigError, match=reason) as caught:
        configs(section)
    assert "hunter2" not in str(caught.value)
