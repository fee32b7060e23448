"""`vhostfs check`, `inspect` and `unpack` from the outside: output and exit status."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from vhostfs.__main__ import main


@pytest.fixture
def image(fixtures_dir: Path) -> list[str]:
    folder = fixtures_dir / "rafs-v5-lz4"
    return [str(folder / "image.boot"), "--blob-dir", str(folder)]


def test_check(image: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *image]) == 0
    assert capsys.readouterr().out == "sound: 54 names, 52 inodes, 23 chunks verified\n"
    assert main(["check", image[0]]) == 0
    assert "no blobs (--blob-dir, --config)" in capsys.readouterr().out
    assert main(["check", image[0], "--blob-dir", str(tmp_path), "--json", "--max-faults", "1"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["sound"] and len(report["faults"]) == 1 and report["counts"]["names"] == 54
    assert "no such file" in report["faults"][0]["what"]


def test_inspect(image: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", image[0]]) == 0
    out = capsys.readouterr().out
    assert "RAFS v5" in out and "7334a2594e133cf8ae364189c2276b090fc490c627bcc3fb" in out
    assert main(["inspect", image[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blobs"][0]["chunk_count"] == 23
    assert main(["inspect", image[0], "--path", "/hardlink-test/foo", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["size"], facts["links"], len(facts["chunks"])) == (944, 3, 1)
    assert main(["inspect", image[0], "--path", "/symlink-test/foo1"]) == 0
    assert "to ../../fc/foo" in capsys.readouterr().out
    assert main(["inspect", image[0], "--chunks", "0", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 23
    assert main(["inspect", image[0], "--chunks", "1"]) == 2
    assert "the image has no blob '1', it has 1" in capsys.readouterr().err


def test_unpack(image: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack", *image, "--directory", str(tmp_path / "tree")]) == 0
    assert "53 names, 7.3 MiB of data" in capsys.readouterr().err
    assert (tmp_path / "tree" / "symlink-test" / "foo1").is_symlink()
    assert main(["unpack", *image, "--tar", str(tmp_path / "image.tar")]) == 0
    with tarfile.open(tmp_path / "image.tar") as archive:
        assert len(archive.getnames()) == 54


@pytest.mark.parametrize("command", ["check", "inspect", "unpack"])
def test_what_is_no_image(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--directory", str(tmp_path / "to"), "--blob-dir", str(tmp_path)] if command == "unpack" else []
    (tmp_path / "text").write_bytes(b"text" * 5000)
    for name, status, said in (("text", 1, "not a RAFS v6 bootstrap"), ("none", 2, "No such file")):
        with pytest.raises(SystemExit) as caught:
            main([command, str(tmp_path / name), *more])
        assert caught.value.code == status
        assert said in capsys.readouterr().err


def test_an_archive_that_cannot_be_finished(
    image: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "image.tar"
    with pytest.raises(SystemExit):
        main(["unpack", image[0], "--blob-dir", str(tmp_path), "--tar", str(archive)])
    assert "no such file in" in capsys.readouterr().err and not archive.exists()
    archive.write_text("mine")
    with pytest.raises(SystemExit):
        main(["unpack", *image, "--tar", str(archive)])
    assert archive.read_text() == "mine"


def test_build_v5_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"data" * 9000)
    image = [str(tmp_path / "boot"), "--blob-dir", str(tmp_path / "blobs")]
    build = ["build", str(tmp_path / "source"), "--fs-version", "5", "--bootstrap", *image]
    assert main(build) == 0 and main(["check", *image]) == 0
    assert "sound: 2 names, 2 inodes, 1 chunks verified" in capsys.readouterr().out


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Bootstraps one and two, which differ in a file, and their blobs."""
    (tmp_path / "source").mkdir()
    for name, data in (("one", b"first" * 9000), ("two", b"second" * 9000)):
        (tmp_path / "source" / "file").write_bytes(data)
        blobs = ["--blob-dir", str(tmp_path / "blobs")]
        assert main(["build", str(tmp_path / "source"), "--bootstrap", str(tmp_path / name), *blobs]) == 0
    return tmp_path


def test_diff(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    images = [str(two / "one"), str(two / "two")]
    assert main(["diff", *images]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("M /file  ") and "1 changed, 1 as they were; to pull: " in lines[1]
    assert main(["diff", *images, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [change["path"] for change in facts["changes"]] == ["/file"] and facts["pulled_chunks"] == 1
    assert main(["diff", *images, "--summary"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_stat(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["stat", str(two / "one"), str(two / "two")]) == 0
    assert "2 images in 2 blobs: 96.7 KiB of data" in capsys.readouterr().out
    assert main(["stat", str(two / "one"), str(two / "one"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"][1]["new_stored_size"] == 0 and facts["dictionary_saves"] == 0


def test_export_and_compact(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = [str(two / "two"), "--blob-dir", str(two / "blobs")]
    assert main(["export", *image, "--output", str(two / "image")]) == 0
    assert "52.7 KiB of data in 1 chunks" in capsys.readouterr().out and (two / "image").exists()
    assert main(["compact", *image, "--output", str(two / "three"), "--min-blob-size", "0"]) == 0
    assert capsys.readouterr().out.startswith("kept ")
    assert main(["diff", str(two / "two"), str(two / "three")]) == 0
    with pytest.raises(SystemExit):
        main(["compact", *image, "--output", str(two / "three"), "--min-used-ratio", "101"])
    assert "'101' is not a whole number from 0 to 100" in capsys.readouterr().err


def test_blobs_of_a_configured_back_end(
    image: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config"
    config.write_text(
        json.dumps({"version": 2, "backend": {"type": "localfs", "localfs": {"dir": image[2]}}})
    )
    assert main(["check", image[0], "--config", str(config)]) == 0
    assert capsys.readouterr().out == "sound: 54 names, 52 inodes, 23 chunks verified\n"
    for text, said in (
        ("{}", "device: must be given"),
        ("no", "config"),
        ('{"version": 2}', "it has no back-end"),
    ):
        config.write_text(text)
        with pytest.raises(SystemExit) as caught:
            main(["check", image[0], "--config", str(config)])
        assert caught.value.code == 2 and said in capsys.readouterr().err
    assert main(["compact", image[0], "--config", str(config), "--output", str(tmp_path / "x")]) == 2
    assert "name a folder by --output-blob-dir" in capsys.readouterr().err


def test_a_back_end_that_cannot_be_reached(
    image: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config"
    config.write_text(
        json.dumps(
            {"version": 2, "backend": {"type": "localfs", "localfs": {"dir": f"{image[0]}/no-folder"}}}
        )
    )
    with pytest.raises(SystemExit) as caught:
        main(["check", image[0], "--config", str(config)])
    assert caught.value.code == 2 and "Not a directory" in capsys.readouterr().err
