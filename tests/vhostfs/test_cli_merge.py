"""`vhostfs merge` from the outside: layers built one by one become one image."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from rafs.build import BuildOptions, TarSource, build_image
from tests import erofs, tars
from tests.tars import Member
from vhostfs.__main__ import main


@pytest.fixture
def layers(tmp_path: Path) -> list[str]:
    contents = [[Member("a", b"1" * 5000), Member("b", b"2" * 5000)], [Member(".wh.a"), Member("c", b"3")]]
    paths = []
    for number, members in enumerate(contents):
        source = TarSource(io.BytesIO(tars.archive(members)), "layer")
        result = build_image(
            source, tmp_path / f"{number}.boot", tmp_path / "blobs", BuildOptions("none", chunk_size=4096)
        )
        paths.append(str(result.bootstrap_path))
    return paths


def test_merges_and_says_what(layers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("/c\n/a\n")
    out = tmp_path / "out.boot"
    assert main(["merge", *layers, "--bootstrap", str(out), "--prefetch-files", str(tmp_path / "list")]) == 0
    captured = capsys.readouterr()
    assert captured.err == "vhostfs merge: warning: '/a' is to be prefetched, but is not in the image\n"
    lines = captured.out.splitlines()
    assert lines[0] == "layers     2 with 3 entries, 3 inodes, 4.9 KiB of data"
    assert lines[1].startswith(f"bootstrap  {out}  ")
    devices = [tmp_path / "blobs" / line.split()[1] for line in lines[2:]]
    with erofs.mounted(out, devices) as point:
        assert {path.name: path.read_bytes() for path in point.iterdir()} == {"b": b"2" * 5000, "c": b"3"}


@pytest.mark.parametrize("words", [["/no/such"], ["--prefetch-files", "/no/such"]])
def test_what_cannot_be_read(
    layers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["merge", *layers, *words, "--bootstrap", str(tmp_path / "out")]) == 1
    assert "/no/such" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
