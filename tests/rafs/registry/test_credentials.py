"""Credentials: from where, in which order, and what of them is never shown."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from rafs.registry.credentials import CredentialError, Credentials, Login, docker_config_path, parse_auth

HUB = "registry-1.docker.io"


def auth(user: str, password: str = "secret") -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def write(path: Path, **content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


async def user_of(host: str, repository: str, path: Path) -> str | None:
    login = await Credentials(host, repository, docker_config=path).current()
    return login.user if login else None


async def test_the_api_goes_before_the_configuration_and_that_before_dockers_file(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", auths={"reg": {"auth": auth("docker")}})
    credentials = Credentials("reg", "a", auth=auth("configured", "pass:word"), docker_config=path)
    login = await credentials.current()
    assert login is not None and (login.user, login.password) == ("configured", "pass:word")
    assert login.basic == f"Basic {auth('configured', 'pass:word')}"
    credentials.set(auth("set"))
    assert (await credentials.current() or login).user == "set"
    credentials.set("")
    assert (await credentials.current() or login).user == "configured"
    assert await user_of("reg", "a", path) == "docker"
    write(path, auths={"reg": {"auth": auth("rotated")}})
    assert await user_of("reg", "a", path) == "rotated"


async def test_names_in_dockers_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "config.json",
        auths={
            "https://index.docker.io/v1/": {"auth": auth("hub")},
            "https://old.example/v1/": {"auth": auth("old")},
            "reg.example:5000": {"username": "plain", "password": "x"},
            "reg.example:5000/team": {"auth": auth("team")},
            "reg.example:5000/team/app": {"auth": auth("app")},
            "empty.example": {},
            "odd.example": "text",
        },
    )
    assert await user_of(HUB, "library/web", path) == "hub"
    assert await user_of("old.example", "a", path) == "old"
    assert await user_of("reg.example:5000", "other", path) == "plain"
    assert await user_of("reg.example:5000", "team/tool", path) == "team"
    assert await user_of("reg.example:5000", "team/app", path) == "app"
    for host in ("empty.example", "odd.example", "reg.example", "none.example"):
        assert await user_of(host, "a", path) is None
    token = write(tmp_path / "token.json", auths={"reg": {"identitytoken": "t", "auth": auth("me", "")}})
    assert await Credentials("reg", docker_config=token).current() == Login("me", "", "t", str(token))


def test_where_dockers_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert docker_config_path() is None
    home = Path.home() / ".docker"
    home.mkdir()
    assert docker_config_path() is None
    write(home / "config.json")
    assert docker_config_path() == home / "config.json"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert docker_config_path() == home / "config.json"
    write(tmp_path / "config.json")
    assert docker_config_path() == tmp_path / "config.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write(tmp_path / "auth.json")))
    assert docker_config_path() == tmp_path / "auth.json"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is not JSON"),
        (json.dumps({"auths": {"reg": {"auth": "??"}}}), "not the base64 of user:password"),
        (json.dumps({"credsStore": "../x"}), "the name of the credential helper cannot be one"),
        (json.dumps({"credsStore": "of-nobody"}), "docker-credential-of-nobody: it cannot be run"),
    ],
)
async def test_a_file_that_is_of_no_use_says_why(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CredentialError, match=reason):
        await Credentials("reg", docker_config=path).current()


async def test_other_json_is_no_login(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text in ("[]", "{}", '{"auths": [], "credHelpers": 7}', "null"):
        path.write_text(text)
        assert await Credentials("reg", docker_config=path).current() is None


HELPER = """#!/bin/sh
[ "$1" = get ] || exit 1
read -r server
case $server in
  reg) echo '{"ServerURL": "reg", "Username": "helped", "Secret": "s"}';;
  token) echo '{"Username": "<token>", "Secret": "t"}';;
  odd) echo 'something else';;
  *) echo 'credentials not found in native keychain'; exit 1;;
esac
"""


async def test_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = write(
        tmp_path / "store.json", credsStore="test", auths={"file": {"auth": auth("file")}, "reg": {}}
    )
    assert await user_of("reg", "a", path) == "helped"
    assert await user_of("file", "a", path) == "file"
    assert await user_of("none", "a", path) is None
    only = write(tmp_path / "only.json", credHelpers={"reg": "test", "token": "test", "odd": "test"})
    assert await user_of("reg", "a", only) == "helped"
    assert await user_of("none", "a", only) is None
    assert await Credentials("token", docker_config=only).current() == Login(
        "", "", "t", "docker-credential-test"
    )
    with pytest.raises(CredentialError, match="no Username and Secret"):
        await Credentials("odd", docker_config=only).current()


def test_nothing_is_shown() -> None:
    login = parse_auth(auth("me", "hidden"), "a place")
    assert "hidden" not in repr(login) and "me" not in repr(login).replace("name", "")
    with pytest.raises(CredentialError) as info:
        parse_auth("aGlkZGVu", "a place")
    assert "hidden" not in str(info.value) and "aGlk" not in str(info.value)
