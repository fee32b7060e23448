"""The real servers start, take what is pushed, and refuse whom they should."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.fakes.accounts import BASIC, PASSWORD, USER
from tests.fakes.certificates import certified
from tests.fakes.registries import (
    DockerRegistry,
    docker_registry_at,
    nginx_at,
    signed_path,
    wait_until_tokens_expire,
)
from tests.fakes.token_server import TokenServer

CONTENT = bytes(range(256)) * 100


def get(url: str, **headers: str) -> bytes:
    request = urllib.request.Request(url, headers=headers)
    content: bytes = urllib.request.urlopen(request, timeout=10).read()
    return content


def refused(url: str, **headers: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as info:
        get(url, **headers)
    with info.value as error:
        return error.code, error.headers.get("WWW-Authenticate", "")


def test_what_is_pushed_can_be_read(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    digest = docker_registry.push_blob("a/b", CONTENT)
    path = f"/v2/a/b/blobs/{digest}"
    assert get(docker_registry.url + path, Range="bytes=3-5") == CONTENT[3:6]
    with nginx_at(docker_registry.folder, tmp_path / "nginx") as nginx:
        with docker_registry_at(docker_registry.folder, redirect_to=nginx.url) as redirecting:
            assert get(redirecting.url + path, Range="bytes=3-5") == CONTENT[3:6]
        hexes = digest.removeprefix("sha256:")
        name = f"docker/registry/v2/blobs/sha256/{hexes[:2]}/{hexes}/data"
        until = int(time.time()) + 60
        assert get(nginx.url + signed_path(name, until)) == CONTENT
        assert refused(nginx.url + signed_path(name, until - 120))[0] == 410
        assert refused(nginx.url + signed_path(name, until, secret="another"))[0] == 403


def test_logins(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    with docker_registry_at(folder) as registry:
        digest = registry.push_blob("a/b", CONTENT)
    path = f"/v2/a/b/blobs/{digest}"
    with docker_registry_at(folder, login="basic") as registry:
        assert refused(registry.url + path)[1].startswith("Basic ")
        assert get(registry.url + path, Authorization=f"Basic {BASIC}") == CONTENT
    with (
        TokenServer(USER, PASSWORD, life_s=2) as tokens,
        docker_registry_at(folder, login="bearer", token_server=tokens) as registry,
    ):
        assert tokens.url in refused(registry.url + path)[1]
        scope = "?scope=repository:a/b:pull"
        assert refused(tokens.url + scope)[0] == 401
        status, document = tokens.answer(f"/token{scope}", f"Basic {BASIC}")
        authorization = f"Bearer {document['token']}"
        assert (status, get(registry.url + path, Authorization=authorization)) == (200, CONTENT)
        wait_until_tokens_expire(registry, "a/b", tokens)
        assert refused(registry.url + path, Authorization=authorization)[0] == 401


def test_tls(tmp_path: Path) -> None:
    authority = certified("an authority")
    files = certified("a registry", authority).write(tmp_path, "registry")
    with docker_registry_at(tmp_path / "registry", certificate=files) as registry:
        context = ssl.create_default_context(cafile=authority.write(tmp_path, "authority")[0])
        with urllib.request.urlopen(registry.url + "/v2/", context=context) as answer:
            assert answer.status == 200
