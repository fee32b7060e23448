"""The configuration of a back-end, typed: where the blobs of an image come from, and how to ask for them.

Names and defaults are those of nydusd's `backend` (contract 5.5, `version: 2`); `gcs` and `azure`, and what a
docstring calls ours, it does not know. Times are seconds. Credentials are `Secret`s. What is checked here
does not depend on whether it can be served: `make.make_backend` says that. Pure, and light to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from rafs.secret import Secret

Count = Annotated[int, Meta(ge=0)]
Scheme = Literal["http", "https"]


class Proxy(Struct, kw_only=True, frozen=True):
    """A proxy of a remote back-end; none when `url` is empty. URLs may have a password in them."""

    url: Secret = Secret("")
    ping_url: Secret = Secret("")
    fallback: bool = True
    check_interval: Count = 5
    use_http: bool = False
    check_pause_elapsed: Count = 300
    dragonfly_scheduler_endpoint: str = ""


class Mirror(Struct, kw_only=True, frozen=True):
    """A mirror of a registry or store, as nydusd 2.2 knows them. `headers` often carry credentials."""

    host: str
    ping_url: str = ""
    headers: dict[str, Secret] = {}
    health_check_interval: Count = 5
    failure_limit: Count = 5


class Remote(Struct, kw_only=True, frozen=True):
    """What all back-ends that are reached over HTTP have. `client_cert_file` and its key (PEM) are ours."""

    skip_verify: bool = False
    ca_cert_files: list[str] = []
    client_cert_file: str = ""
    client_key_file: str = ""
    timeout: Count = 5
    connect_timeout: Count = 5
    retry_limit: Count = 0
    proxy: Proxy = Proxy()
    mirrors: list[Mirror] = []


class LocalDisk(Struct, kw_only=True, frozen=True):
    """Blobs as partitions of a GPT disk, or one blob that is the whole device."""

    device_path: str = ""
    disable_gpt: bool = False


class LocalFs(Struct, kw_only=True, frozen=True):
    """Blobs as files: one file, or directories in which they are named by their ids."""

    blob_file: str = ""
    dir: str = ""
    alt_dirs: list[str] = []


class ObjectStore(Remote, kw_only=True, frozen=True):
    """Objects named `object_prefix` + blob id (no slash is put between) in a bucket or container.

    Without credentials requests are not signed.
    """

    object_prefix: str = ""


class Oss(ObjectStore, kw_only=True, frozen=True):
    """Alibaba Cloud OSS. `region` is ours; where it is empty it is read from the endpoint."""

    scheme: Scheme = "https"
    endpoint: str = ""
    bucket_name: str = ""
    access_key_id: Secret = Secret("")
    access_key_secret: Secret = Secret("")
    region: str = ""


class S3(ObjectStore, kw_only=True, frozen=True):
    """S3, or what speaks like it. `session_token` and `virtual_hosted` are ours.

    The endpoint is `host[:port]`, that of AWS where it is empty. The bucket is the first part of the path,
    or with `virtual_hosted` of the host name.
    """

    scheme: Scheme = "https"
    endpoint: str = ""
    region: str = ""
    bucket_name: str = ""
    access_key_id: Secret = Secret("")
    access_key_secret: Secret = Secret("")
    session_token: Secret = Secret("")
    virtual_hosted: bool = False


class Gcs(ObjectStore, kw_only=True, frozen=True):
    """Google Cloud Storage (ours). A service account's key is given as a file, or as its JSON text."""

    bucket_name: str = ""
    endpoint: str = ""
    service_account_file: str = ""
    service_account_key: Secret = Secret("")


class Azure(ObjectStore, kw_only=True, frozen=True):
    """Azure Blob Storage (ours). `endpoint` is a URL; `https://ACCOUNT.blob.core.windows.net` where empty."""

    account_name: str = ""
    container_name: str = ""
    endpoint: str = ""
    account_key: Secret = Secret("")
    sas_token: Secret = Secret("")


class Registry(Remote, kw_only=True, frozen=True):
    scheme: Scheme = "https"
    host: str = ""
    repo: str = ""
    auth: Secret | None = None
    registry_token: Secret | None = None
    blob_url_scheme: str = ""
    blob_redirected_host: str = ""


class HttpProxy(Remote, kw_only=True, frozen=True):
    """Blobs as `addr` + `path` + "/" + id over HTTP; `addr` is a URL or the path of a unix socket."""

    addr: Secret = Secret("")
    path: str = ""


BackendType = Literal["localdisk", "localfs", "oss", "s3", "gcs", "azure", "registry", "http-proxy"]
Section = LocalDisk | LocalFs | Oss | S3 | Gcs | Azure | Registry | HttpProxy
SECTIONS: dict[BackendType, type[Section]] = {
    "localdisk": LocalDisk,
    "localfs": LocalFs,
    "oss": Oss,
    "s3": S3,
    "gcs": Gcs,
    "azure": Azure,
    "registry": Registry,
    "http-proxy": HttpProxy,
}
#: fields that must not be empty
_REQUIRED: dict[type[Section], tuple[str, ...]] = {
    LocalDisk: ("device_path",),
    LocalFs: (),
    Oss: ("endpoint", "bucket_name"),
    S3: ("region", "bucket_name"),
    Gcs: ("bucket_name",),
    Azure: ("account_name", "container_name"),
    Registry: ("host", "repo"),
    HttpProxy: ("addr",),
}


class Backend(Struct, kw_only=True, frozen=True):
    """Where blobs come from. `type` says which section counts."""

    type: BackendType
    localdisk: LocalDisk | None = None
    localfs: LocalFs | None = None
    oss: Oss | None = None
    s3: S3 | None = None
    gcs: Gcs | None = None
    azure: Azure | None = None
    registry: Registry | None = None
    http_proxy: HttpProxy | None = field(name="http-proxy", default=None)

    @property
    def section(self) -> Section | None:
        section: Section | None = getattr(self, self.type.replace("-", "_"))
        return section


def backend_of(kind: BackendType, section: Section) -> Backend:
    """The configuration that has this one section."""
    sections: dict[str, Any] = {kind.replace("-", "_"): section}
    return Backend(type=kind, **sections)


def backend_problems(backend: Backend) -> Iterator[tuple[str, str]]:
    """What is wrong with it beyond its types: (field below the back-end, sentence)."""
    section = backend.section
    if section is None:
        yield backend.type, f"is missing, though backend.type is {backend.type!r}"
        return
    for name, sentence in section_problems(section):
        yield f"{backend.type}.{name}" if name else backend.type, sentence


def section_problems(section: Section) -> Iterator[tuple[str, str]]:
    """The same for the section of one back-end: (field, or "" for the whole; sentence)."""
    for name in _REQUIRED[type(section)]:
        if not getattr(section, name):
            yield name, "must be given and not be empty"
    if isinstance(section, LocalFs) and not (section.dir or section.blob_file):
        yield "", "either 'dir' or 'blob_file' must be given"


def encode_backend(backend: Backend) -> bytes:
    """JSON with the secrets in it, for another process of ours; the same configuration, the same bytes."""
    return msgspec.json.encode(backend, enc_hook=Secret.reveal)


def decode_backend(data: bytes) -> Backend:
    """The configuration that `encode_backend` was given. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Backend, dec_hook=decode_secret)


def decode_secret(kind: type, value: Any) -> Any:
    """What msgspec calls for the types that it does not know: `dec_hook`."""
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise TypeError("Expected `str`")
