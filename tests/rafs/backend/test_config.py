"""The configuration of back-ends: what must be given, and its way to another process of ours."""

from __future__ import annotations

import msgspec
import pytest

from rafs.backend.config import (
    S3,
    SECTIONS,
    Azure,
    Backend,
    HttpProxy,
    LocalFs,
    Mirror,
    Proxy,
    Registry,
    backend_of,
    backend_problems,
    decode_backend,
    encode_backend,
)
from rafs.secret import Secret

PASSWORD = "hunter2-very-secret"

WITH_SECRETS = [
    backend_of("registry", Registry(host="h", repo="r", auth=Secret(PASSWORD))),
    backend_of("s3", S3(bucket_name="b", region="r", access_key_secret=Secret(PASSWORD))),
    backend_of("azure", Azure(account_name="a", container_name="c", sas_token=Secret(PASSWORD))),
    backend_of("http-proxy", HttpProxy(addr=Secret(f"http://u:{PASSWORD}@h"), path="/p")),
    backend_of("s3", S3(mirrors=[Mirror(host="m", headers={"X-Token": Secret(PASSWORD)})])),
    backend_of("s3", S3(proxy=Proxy(url=Secret(f"http://u:{PASSWORD}@proxy")))),
]


@pytest.mark.parametrize("backend", [*WITH_SECRETS, backend_of("localfs", LocalFs(dir="/blobs"))])
def test_another_process_gets_the_same(backend: Backend) -> None:
    data = encode_backend(backend)
    assert decode_backend(data) == backend
    assert encode_backend(decode_backend(data)) == data


@pytest.mark.parametrize("backend", WITH_SECRETS)
def test_secrets_go_there_and_are_shown_nowhere(backend: Backend) -> None:
    assert PASSWORD.encode() in encode_backend(backend)
    assert PASSWORD not in repr(backend) + str(backend)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'{"type":"ftp"}', b'{"type":"s3","s3":{"region":1}}']
)
def test_what_is_no_configuration(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_backend(data)


@pytest.mark.parametrize(
    ("kind", "required"),
    [
        ("localdisk", ["device_path"]),
        ("localfs", [""]),
        ("oss", ["endpoint", "bucket_name"]),
        ("s3", ["region", "bucket_name"]),
        ("gcs", ["bucket_name"]),
        ("azure", ["account_name", "container_name"]),
        ("registry", ["host", "repo"]),
        ("http-proxy", ["addr"]),
    ],
)
def test_what_must_be_given(kind: str, required: list[str]) -> None:
    backend = msgspec.convert({"type": kind}, Backend)
    [(path, sentence)] = backend_problems(backend)
    assert path == kind and "is missing" in sentence
    backend = msgspec.convert({"type": kind, kind: {}}, Backend)
    assert [path for path, _ in backend_problems(backend)] == [
        f"{kind}.{name}" if name else kind for name in required
    ]


def test_every_type_has_its_section() -> None:
    for kind, section in SECTIONS.items():
        backend = backend_of(kind, section())
        assert isinstance(backend.section, section)
        assert decode_backend(encode_backend(backend)) == backend
