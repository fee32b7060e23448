"""Images of layers built into local files, out of a layout and out of a registry."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rafs.oci.layout import Layout
from tests.fakes.converted import tree_of
from tests.fakes.oci_image import EXPECTED, LAYERS, add_image, add_index, for_platform
from tests.fakes.served_registry import registry_served
from tests.fakes.skopeo import skopeo
from tests.tars import Member
from vhostfs.__main__ import main

LZ4 = 1


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "source")
    add_image(layout, LAYERS, tag="v1")
    return layout


def build(tmp_path: Path, name: str, *options: str) -> int:
    out = ["--bootstrap", str(tmp_path / "out/boot"), "--blob-dir", str(tmp_path / "out/blobs")]
    return main(["build", name, *out, "--work-dir", str(tmp_path / "work"), "--chunk-size", "4096", *options])


def check(tmp_path: Path, said: str, expected: dict[str, bytes] = EXPECTED) -> None:
    blobs = [Path(line.split()[1]) for line in said.splitlines() if line.startswith("blob ")]
    files = {
        name.decode(): entry.sha256 for name, entry in tree_of(tmp_path / "out/boot", blobs, LZ4).items()
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in expected.items()}
    assert {name: digest for name, digest in files.items() if digest} == digests


def test_a_layout(tmp_path: Path, source: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """Named in each way; the second time the layers are known."""
    said = []
    for name, options in (
        (str(source.folder), []),
        (f"{source.folder}:v1", ["--type", "oci-layout"]),
        (f"oci:{source.folder}:v1", []),
    ):
        assert build(tmp_path, name, *options) == 0
        said.append(capsys.readouterr())
        assert said[-1].err == ""
        check(tmp_path, said[-1].out)
    assert (
        said[0].out.splitlines()[0].startswith("source     3 layers, 12 entries, 11 inodes, 76.8 KiB of data")
    )
    assert said[0].out.splitlines()[1:] == said[2].out.splitlines()[1:]


def test_a_registry(tmp_path: Path, source: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    with registry_served(tmp_path / "registry") as host:
        name = f"docker://{host}/web:1"
        skopeo(tmp_path / "home", "copy", "--dest-tls-verify=false", f"oci:{source.folder}:v1", name)
        for named, options in ((name, []), (f"{host}/web:1", ["--type", "registry"])):
            assert build(tmp_path, named, *options) == 0
            check(tmp_path, capsys.readouterr().out)


def test_one_platform_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Layout(tmp_path / "source")
    amd, arm = (add_image(source, [[Member(name, b"1")]], tag=None) for name in ("amd64", "arm64"))
    add_index(source, [for_platform(amd, "amd64"), for_platform(arm, "arm64")], tag="multi")
    assert build(tmp_path, f"oci:{source.folder}:multi") == 1
    assert capsys.readouterr().err == (
        "vhostfs build: the image is for several platforms (linux/amd64, linux/arm64); "
        "name one with --platform\n"
    )
    assert build(tmp_path, f"oci:{source.folder}:multi", "--platform", "linux/arm64") == 0
    check(tmp_path, capsys.readouterr().out, {"arm64": b"1"})


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("oci:/no/such:v1", [], "'/no/such' is no OCI layout"),
        ("docker://127.0.0.1:1/web:1", [], "127.0.0.1:1: no connection"),
        ("oci:{source}", ["--parent-bootstrap", "x"], "no --parent-bootstrap or --whiteout-spec is needed"),
        ("{source}", ["--type", "registry"], "is no name of a repository"),
    ],
)
def test_what_cannot_be_built(
    tmp_path: Path,
    source: Layout,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: list[str],
    said: str,
) -> None:
    assert build(tmp_path, name.format(source=source.folder), *options) == 1
    err = capsys.readouterr().err
    assert err.startswith("vhostfs build: ") and said in err
    assert not (tmp_path / "out/boot").exists()
