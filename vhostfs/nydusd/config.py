"""nydusd's configuration as it is used here: the fields of `version: 2`, typed, with their defaults.

The older shape (device/backend/cache) is translated into this one by `config_legacy.py`; both are read by
`config_parse.py`. Names and defaults are the contract's (5.5). Sizes are bytes, times seconds. Credentials
are `Secret`s. What is checked here does not depend on whether we can serve it: that is said at mount.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field, to_builtins

from vhostfs.nydusd.secret import Secret

MIB = 1 << 20
MAX_BATCH_SIZE = 256 * MIB
MAX_THREADS = 1024

Count = Annotated[int, Meta(ge=0)]
BatchSize = Annotated[int, Meta(ge=0, le=MAX_BATCH_SIZE)]
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
    """A mirror of a registry, as nydusd 2.2 knows them. `headers` often carry credentials."""

    host: str
    ping_url: str = ""
    headers: dict[str, Secret] = {}
    health_check_interval: Count = 5
    failure_limit: Count = 5


class _Remote(Struct, kw_only=True, frozen=True):
    """What all back-ends that are reached over HTTP have."""

    skip_verify: bool = False
    ca_cert_files: list[str] = []
    timeout: Count = 5
    connect_timeout: Count = 5
    retry_limit: Count = 0
    proxy: Proxy = Proxy()
    mirrors: list[Mirror] = []


class LocalDisk(Struct, kw_only=True, frozen=True):
    device_path: str = ""
    disable_gpt: bool = False


class LocalFs(Struct, kw_only=True, frozen=True):
    """Blobs as files: one file, or directories in which they are named by their ids."""

    blob_file: str = ""
    dir: str = ""
    alt_dirs: list[str] = []


class Oss(_Remote, kw_only=True, frozen=True):
    scheme: Scheme = "https"
    endpoint: str = ""
    bucket_name: str = ""
    object_prefix: str = ""
    access_key_id: Secret = Secret("")
    access_key_secret: Secret = Secret("")


class S3(Oss, kw_only=True, frozen=True):
    region: str = ""


class Registry(_Remote, kw_only=True, frozen=True):
    scheme: Scheme = "https"
    host: str = ""
    repo: str = ""
    auth: Secret | None = None
    registry_token: Secret | None = None
    blob_url_scheme: str = ""
    blob_redirected_host: str = ""


class HttpProxy(_Remote, kw_only=True, frozen=True):
    addr: Secret = Secret("")
    path: str = ""


BackendType = Literal["localdisk", "localfs", "oss", "s3", "registry", "http-proxy"]
BackendSection = LocalDisk | LocalFs | Oss | S3 | Registry | HttpProxy
SECTIONS: dict[BackendType, type[BackendSection]] = {
    "localdisk": LocalDisk,
    "localfs": LocalFs,
    "oss": Oss,
    "s3": S3,
    "registry": Registry,
    "http-proxy": HttpProxy,
}
#: fields that must not be empty
_REQUIRED: dict[type[BackendSection], tuple[str, ...]] = {
    LocalDisk: ("device_path",),
    LocalFs: (),
    Oss: ("endpoint", "bucket_name"),
    S3: ("region", "bucket_name"),
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
    registry: Registry | None = None
    http_proxy: HttpProxy | None = field(name="http-proxy", default=None)

    @property
    def section(self) -> BackendSection | None:
        section: BackendSection | None = getattr(self, self.type.replace("-", "_"))
        return section


class FileCache(Struct, kw_only=True, frozen=True):
    """`work_dir` is empty when it was not given: nydusd's default, the current directory, is never wanted."""

    work_dir: str = ""
    disable_indexed_map: bool = False
    enable_encryption: bool = False
    enable_convergent_encryption: bool = False
    encryption_key: Secret = Secret("")


class FsCache(Struct, kw_only=True, frozen=True):
    work_dir: str = ""


class Prefetch(Struct, kw_only=True, frozen=True):
    enable: bool
    threads: Count = 8
    batch_size: BatchSize = MIB
    bandwidth_limit: Count = 0
    prefetch_all: bool = False
    stream_prefetch: bool = False


CacheType = Literal["blobcache", "filecache", "fscache", "dummycache", ""]


class Cache(Struct, kw_only=True, frozen=True):
    type: CacheType = ""
    compressed: bool = False
    validate: bool = False
    filecache: FileCache | None = None
    fscache: FsCache | None = None
    prefetch: Prefetch | None = None


class Rafs(Struct, kw_only=True, frozen=True):
    mode: Literal["direct", "cached"] = "direct"
    batch_size: BatchSize = MIB
    validate: bool = False
    enable_xattr: bool = False
    iostats_files: bool = False
    access_pattern: bool = False
    latest_read_files: bool = False
    prefetch: Prefetch | None = None


class Overlay(Struct, kw_only=True, frozen=True):
    upper_dir: str
    work_dir: str


class ExternalBackend(Struct, kw_only=True, frozen=True):
    """A back-end for some blobs only. What is in `config` depends on its type, and may be secret."""

    type: str
    patch: dict[str, Any] = {}
    config: dict[str, Secret] = {}


class Config(Struct, kw_only=True, frozen=True):
    version: Literal[2]
    id: str = ""
    backend: Backend | None = None
    external_backends: list[ExternalBackend] = []
    cache: Cache | None = None
    rafs: Rafs | None = None
    overlay: Overlay | None = None


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """What is wrong with it beyond its types: (path of the field, sentence)."""
    if config.backend is not None:
        section = config.backend.section
        path = f"backend.{config.backend.type}"
        if section is None:
            yield path, f"is missing, though backend.type is {config.backend.type!r}"
        else:
            for name, sentence in section_problems(section):
                yield f"{path}.{name}" if name else path, sentence
    for path, prefetch in (
        ("rafs.prefetch", config.rafs and config.rafs.prefetch),
        ("cache.prefetch", config.cache and config.cache.prefetch),
    ):
        if prefetch and prefetch.enable and not 1 <= prefetch.threads <= MAX_THREADS:
            yield f"{path}.threads", f"must be 1 to {MAX_THREADS}"


def section_problems(section: BackendSection) -> Iterator[tuple[str, str]]:
    """The same for the section of one back-end: (field, or "" for the whole; sentence)."""
    for name in _REQUIRED[type(section)]:
        if not getattr(section, name):
            yield name, "must be given and not be empty"
    if isinstance(section, LocalFs) and not (section.dir or section.blob_file):
        yield "", "either 'dir' or 'blob_file' must be given"


def public_view(config: Config) -> dict[str, Any]:
    """The configuration as JSON has it, without what is secret and what was left out."""
    view: dict[str, Any] = _pruned(to_builtins(config, enc_hook=lambda secret: None))
    return view


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(inner) for name, inner in value.items() if inner is not None}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value
