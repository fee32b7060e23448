"""An image in a real registry, mounted as Kata does it: refused logins are told, new credentials help."""

from __future__ import annotations

import base64
import json
import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.accounts import BASIC, PASSWORD, REPOSITORY, USER
from tests.fakes.certificates import certified
from tests.fakes.registries import DockerRegistry, docker_registry_at, wait_until_tokens_expire
from tests.fakes.token_server import TokenServer
from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.nydusd.daemon_process import snapshotter_config, started, wait_go
from tests.vhostfs.test_daemon import Guest

MOUNTPOINT = "/rafs/3f4e2a90d1b7c6/lowerdir"


def registry_config(registry: DockerRegistry, work_dir: Path, auth: str, **fields: object) -> str:
    """What nydus-snapshotter writes for an image in a registry (contract 4.3), and other `fields`."""
    config = json.loads(snapshotter_config(work_dir, work_dir, prefetch=False))
    config["device"]["backend"] = {
        "type": "registry",
        "config": {
            "readahead": False,
            "host": registry.host,
            "repo": REPOSITORY,
            "auth": auth,
            "scheme": registry.scheme,
            "proxy": {"fallback": False},
            "timeout": 2,
            "connect_timeout": 2,
            "retry_limit": 2,
        }
        | fields,
    }
    return json.dumps(config)


def test_the_agent_keeps_to_the_rate_that_it_was_given(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = os.environ["VHOSTFS_AGENT_OPTIONS"]
    monkeypatch.setenv("VHOSTFS_AGENT_OPTIONS", f"{options} --host-bandwidth 512KiB --host-requests 1000")
    (blob,) = image.blob_dir.iterdir()
    words = ["virtiofs", "--log-level", "info", "--apisock", "api", "--sock", "vu"]
    with docker_registry_at(tmp_path / "registry") as registry, started(tmp_path, words) as nydusd:
        registry.push_blob(REPOSITORY, blob.read_bytes())
        wait_go(nydusd)
        config = registry_config(registry, tmp_path / "cache", "")
        body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
        assert nydusd.call("POST", f"/api/v1/mount?mountpoint={MOUNTPOINT}", body) == (204, None)
        began = time.monotonic()
        with closing(Guest(str(nydusd.sock))) as guest:
            assert guest.read(f"{MOUNTPOINT}/big".encode()) == (image.source / "big").read_bytes()
        # from below: half of it was saved up, and the last request goes on credit
        assert time.monotonic() - began >= 0.5


def test_logins_at_mount_and_while_the_image_is_used(image: BuiltImage, tmp_path: Path) -> None:
    (blob,) = image.blob_dir.iterdir()
    folder = tmp_path / "registry"
    with docker_registry_at(folder) as plain:
        plain.push_blob(REPOSITORY, blob.read_bytes())
    words = ["virtiofs", "--log-level", "info", "--apisock", "api", "--sock", "vu"]
    with (
        TokenServer(USER, PASSWORD, life_s=1) as tokens,
        docker_registry_at(folder, login="bearer", token_server=tokens) as registry,
        started(tmp_path, words) as nydusd,
    ):
        wait_go(nydusd)

        def mount(auth: str) -> tuple[int, object]:
            config = registry_config(registry, tmp_path / "cache", auth)
            body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
            return nydusd.call("POST", f"/api/v1/mount?mountpoint={MOUNTPOINT}", body)

        status, answer = mount(base64.b64encode(b"somebody:wrong").decode())
        assert status == 500 and isinstance(answer, dict)
        assert "refuses the credentials (auth in the configuration)" in answer["message"]
        assert mount(BASIC) == (204, None)
        with closing(Guest(str(nydusd.sock))) as guest:
            path = f"{MOUNTPOINT}/dir/file3".encode()
            assert guest.read(path) == b"content 3\n"
            tokens.password = "rotated"
            wait_until_tokens_expire(registry, REPOSITORY, tokens)
            big = f"{MOUNTPOINT}/big".encode()
            with pytest.raises(OSError, match="Input/output error"):
                guest.read(big)
            assert "refuses the credentials" in nydusd.log
            auth = base64.b64encode(f"{USER}:rotated".encode()).decode()
            assert nydusd.call("PUT", "/api/v1/config?id=/15", {"registry_auth": auth})[0] == 204
            assert guest.read(big) == (image.source / "big").read_bytes()
        for secret in (PASSWORD, "rotated", BASIC, auth):
            assert secret not in nydusd.log
        assert nydusd.end() == 0


def test_who_has_logged_in_with_docker_needs_no_auth(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is read by the agent, in its sandbox, whenever credentials are needed: also a new one."""
    home = tmp_path / "home"
    (home / ".docker").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    (blob,) = image.blob_dir.iterdir()
    folder = tmp_path / "registry"
    with docker_registry_at(folder) as plain:
        plain.push_blob(REPOSITORY, blob.read_bytes())
    words = ["virtiofs", "--log-level", "info", "--apisock", "api", "--sock", "vu"]
    with docker_registry_at(folder, login="basic") as registry, started(tmp_path, words) as nydusd:
        wait_go(nydusd)
        config = registry_config(registry, tmp_path / "cache", "")
        body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
        file = home / ".docker" / "config.json"

        def refused() -> str:
            status, answer = nydusd.call("POST", f"/api/v1/mount?mountpoint={MOUNTPOINT}", body)
            assert status == 500
            return str(answer["message"])

        assert "there are none for it" in refused()
        file.write_text(json.dumps({"credHelpers": {registry.host: "test"}}))
        assert "docker-credential-test: it cannot be run: " in refused()
        file.write_text(json.dumps({"auths": {registry.host: {"auth": BASIC}}}))
        assert nydusd.call("POST", f"/api/v1/mount?mountpoint={MOUNTPOINT}", body) == (204, None)
        with closing(Guest(str(nydusd.sock))) as guest:
            assert guest.read(f"{MOUNTPOINT}/dir/file3".encode()) == b"content 3\n"


def test_a_ca_that_the_configuration_names(image: BuiltImage, tmp_path: Path) -> None:
    """The worker opens the file, the agent trusts it."""
    authority = certified("an authority")
    trusted, _ = authority.write(tmp_path, "authority")
    (blob,) = image.blob_dir.iterdir()
    folder = tmp_path / "registry"
    with docker_registry_at(folder) as plain:
        plain.push_blob(REPOSITORY, blob.read_bytes())
    files = certified("a registry", authority).write(tmp_path, "server")
    words = ["virtiofs", "--log-level", "info", "--apisock", "api", "--sock", "vu"]
    with docker_registry_at(folder, certificate=files) as registry, started(tmp_path, words) as nydusd:
        wait_go(nydusd)

        def mount(**fields: object) -> tuple[int, object]:
            config = registry_config(registry, tmp_path / "cache", "", **fields)
            body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": config}
            return nydusd.call("POST", f"/api/v1/mount?mountpoint={MOUNTPOINT}", body)

        status, answer = mount()
        assert status == 500 and "its certificate is not trusted" in str(answer)
        assert mount(ca_cert_files=[str(trusted)]) == (204, None)
        with closing(Guest(str(nydusd.sock))) as guest:
            assert guest.read(f"{MOUNTPOINT}/dir/file3".encode()) == b"content 3\n"
