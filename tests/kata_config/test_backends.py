"""The samples of back-ends: each is taken as it stands, whole, and means what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rafs.backend.config import SECTIONS, Remote
from rafs.backend.http import HttpPool
from rafs.backend.make import make_backend
from tests.conftest import REPO
from tests.fakes.certificates import certified
from tests.fakes.object_stores import FakeGcs
from vhostfs.nydusd.config import Config
from vhostfs.nydusd.config_parse import parse_config
from vhostfs.nydusd.config_served import served, without_effect

PAGE = REPO / "kata-config" / "backends.md"
SAMPLES = sorted((REPO / "kata-config" / "backends").iterdir())
#: what the snapshotter fills in for each image
FILLED_IN = {"host": "registry.example", "repo": "library/web"}


def read(sample: Path, files: dict[str, Path]) -> Config:
    """The configuration; `files`: what stands for those of an operator."""
    text = sample.read_text()
    for name, path in files.items():
        text = text.replace(name, str(path))
    if '"type": "registry"' in text:
        filled = "".join(f'"{name}": "{value}", ' for name, value in FILLED_IN.items())
        text = text.replace('"config": {', f'"config": {{{filled}', 1)
    config, unknown = parse_config(text)
    assert unknown == []
    return config


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
async def test_every_sample_is_served_as_it_stands(sample: Path, tmp_path: Path) -> None:
    ca_file, _ = certified("a CA").write(tmp_path, "ca")
    (tmp_path / "key.json").write_text(FakeGcs({}).service_account())
    files = {"/etc/ssl/private-ca.pem": ca_file, "/etc/vhostfs/service-account.json": tmp_path / "key.json"}
    config = read(sample, files)
    assert without_effect(config) == []
    backend, _ = served(config)
    assert sample.name.startswith(backend.type)
    pool = HttpPool()
    await make_backend(backend, pool).close()
    await pool.close()


def test_the_page_names_every_sample_and_every_type() -> None:
    page = PAGE.read_text()
    assert set(re.findall(r"\(backends/([^)]+)\)", page)) == {sample.name for sample in SAMPLES}
    for kind in SECTIONS:
        assert f"`{kind}`" in page


def test_the_page_has_every_field_that_servers_share() -> None:
    page = PAGE.read_text()
    for name in Remote.__struct_fields__:
        assert f"`{name}`" in page, name
