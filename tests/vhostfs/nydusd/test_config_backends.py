"""All of nydusd's `backend`, field by field (contract 4.3, 5.5), in both shapes: taken or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rafs.backend.config import SECTIONS
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from rafs.secret import Secret
from vhostfs.nydusd.config_parse import Parsed, parse_config
from vhostfs.nydusd.config_served import served, without_effect
from vhostfs.nydusd.errors import ConfigError

PROXY = {
    "url": "http://proxy:1",
    "ping_url": "http://proxy:1/ping",
    "fallback": False,
    "check_interval": 7,
    "use_http": True,
    "check_pause_elapsed": 9,
    "dragonfly_scheduler_endpoint": "",
}
MIRROR = {
    "host": "http://mirror:1",
    "ping_url": "http://mirror:1/ping",
    "headers": {"X-Dragonfly-Registry": "https://registry.test"},
    "health_check_interval": 7,
    "failure_limit": 3,
}
COMMON: dict[str, Any] = {
    "skip_verify": True,
    "ca_cert_files": [],
    "timeout": 7,
    "connect_timeout": 9,
    "retry_limit": 3,
    "proxy": PROXY,
    "mirrors": [MIRROR],
}
OBJECTS: dict[str, Any] = {
    "scheme": "http",
    "endpoint": "host",
    "bucket_name": "bucket",
    "object_prefix": "prefix/",
    "access_key_id": "name",
    "access_key_secret": "secret",
}
#: type -> every field that it has in nydusd, with a value that is not its default
BACKENDS: dict[str, dict[str, Any]] = {
    "localdisk": {"device_path": "/dev/vdb", "disable_gpt": True},
    "localfs": {"blob_file": "/blob", "dir": "/blobs", "alt_dirs": ["/more"]},
    "oss": {**OBJECTS, **COMMON},
    "s3": {**OBJECTS, "region": "eu-west-3", **COMMON},
    "registry": {
        "scheme": "http",
        "host": "registry.test",
        "repo": "library/web",
        "auth": "dXNlcjpwYXNz",
        "registry_token": "token",
        "blob_url_scheme": "http",
        "blob_redirected_host": "storage.test",
        **COMMON,
    },
    "http-proxy": {"addr": "http://blobs.test", "path": "/blobs", **COMMON},
}
#: a value that no field of the same kind takes
WRONG: dict[type, Any] = {str: 7, bool: "yes", int: -1, list: "none", dict: []}
EACH_FIELD = [(kind, name) for kind, fields in BACKENDS.items() for name in fields]


def v2(kind: str, section: object) -> str:
    return json.dumps(
        {"version": 2, "backend": {"type": kind, kind: section}, "cache": {"type": "blobcache"}}
    )


def legacy(kind: str, section: object) -> str:
    device = {"backend": {"type": kind, "config": section}, "cache": {"type": "blobcache"}}
    return json.dumps({"device": device, "mode": "direct"})


def plain(value: Any) -> Any:
    """A typed value as JSON has it."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if hasattr(value, "__struct_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return value


def section_of(parsed: Parsed) -> Any:
    assert parsed.config.backend is not None
    return plain(parsed.config.backend.section)


@pytest.mark.parametrize("shape", [v2, legacy])
@pytest.mark.parametrize("kind", BACKENDS)
def test_every_field_is_known_and_arrives(kind: str, shape: Any) -> None:
    parsed = parse_config(shape(kind, BACKENDS[kind]))
    assert parsed.unknown == []
    section = section_of(parsed)
    assert {name: section[name] for name in BACKENDS[kind]} == BACKENDS[kind]


@pytest.mark.parametrize("shape", [v2, legacy])
@pytest.mark.parametrize(("kind", "name"), EACH_FIELD)
def test_a_field_of_another_kind_is_refused_by_its_path(kind: str, name: str, shape: Any) -> None:
    value = WRONG[type(BACKENDS[kind][name])]
    path = f"backend.{kind}.{name}" if shape is v2 else f"device.backend.config.{name}"
    with pytest.raises(ConfigError, match=f"^{path.replace('.', '[.]')}: "):
        parse_config(shape(kind, {**BACKENDS[kind], name: value}))


@pytest.mark.parametrize(
    ("where", "names"), [("proxy", PROXY), ("mirrors[0]", MIRROR)], ids=["proxy", "mirrors"]
)
def test_fields_of_proxies_and_mirrors_are_refused_by_their_paths(where: str, names: dict[str, Any]) -> None:
    for name, value in names.items():
        wrong: Any = {**names, name: WRONG[type(value)]}
        changed = {"proxy": wrong} if where == "proxy" else {"mirrors": [wrong]}
        with pytest.raises(ConfigError) as caught:
            parse_config(v2("s3", {**BACKENDS["s3"], **changed}))
        assert str(caught.value).startswith(f"backend.s3.{where}.{name}: ")


@pytest.mark.parametrize("kind", BACKENDS)
def test_what_the_snapshotter_adds_to_every_kind(kind: str) -> None:
    """Obsolete fields, an empty proxy, fields of other kinds: they mean nothing, and nobody is warned."""
    minimal = {
        name: value for name, value in BACKENDS[kind].items() if name not in COMMON or kind == "http-proxy"
    }
    stray = {
        "readahead": False,
        "readahead_sec": 10,
        "proxy": {"fallback": False},
        "blob_file": "",
        "host": "",
    }
    section = {**stray, **minimal}
    parsed = parse_config(legacy(kind, section))
    assert parsed.unknown == []
    found = section_of(parsed)
    assert {name: found[name] for name in minimal} == minimal


@pytest.mark.parametrize("kind", BACKENDS)
async def test_every_kind_is_served(kind: str) -> None:
    config = parse_config(v2(kind, BACKENDS[kind])).config
    backend, _ = served(config)
    pool = HttpPool()
    made = make_backend(backend, pool)
    await made.close()
    await pool.close()
    assert without_effect(config) == []


def test_the_table_has_all_that_nydusd_has() -> None:
    ours = {"gcs", "azure"}
    assert set(BACKENDS) | ours == set(SECTIONS)
    extra = {
        "s3": {"session_token", "virtual_hosted"},
        "oss": {"region"},
    }
    for kind, fields in BACKENDS.items():
        own = {"client_cert_file", "client_key_file"} if "timeout" in fields else set()
        known = set(SECTIONS[kind].__struct_fields__)  # type: ignore[index]
        assert known - own - extra.get(kind, set()) == set(fields)


async def test_external_backends_are_taken_and_have_no_effect() -> None:
    """They are for blobs that lie outside of RAFS; an image that has some is refused by itself."""
    external = [{"type": "local", "patch": {"a": "b"}, "config": {"root": "/models"}}]
    text = json.loads(v2("localfs", {"dir": "/blobs"})) | {"external_backends": external}
    config = parse_config(json.dumps(text)).config
    assert plain(config.external_backends) == external
    assert without_effect(config) == ["external_backends"]
    served(config)


def test_a_scheduler_of_dragonfly_has_no_effect() -> None:
    """Its daemon, which is a proxy or a mirror, finds the scheduler itself."""
    section = {**BACKENDS["registry"], "proxy": {**PROXY, "dragonfly_scheduler_endpoint": "http://s"}}
    config = parse_config(v2("registry", section)).config
    assert without_effect(config) == ["backend.registry.proxy.dragonfly_scheduler_endpoint"]
