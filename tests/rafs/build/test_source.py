"""The source directory: what a scan finds, and what happens when the tree does not stand still."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rafs.build import BuildError, build_image
from rafs.build.source import SourceFile, scan_directory


def scan(root: Path) -> list[tuple[bytes, int]]:
    """Names below the root in tree order, with their link counts."""
    tree = scan_directory(os.fsencode(root))
    return [(inode.path.removeprefix(os.fsencode(root)), inode.nlink) for inode in tree.inodes]


def test_tree_order(tmp_path: Path) -> None:
    for name in ("b/y/deep", "b/x", "a/z", "a-", "!"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b" / "file").touch()
    assert [name for name, _ in scan(tmp_path)] == [
        b"",
        *(b"/!", b"/a", b"/a-", b"/b"),
        b"/a/z",
        *(b"/b/file", b"/b/x", b"/b/y"),
        b"/b/y/deep",
    ]


def test_link_counts_are_names_inside_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "one").touch()
    os.link(root / "one", root / "folder" / "two")
    os.link(root / "one", tmp_path / "outside")
    (root / "other").touch()
    os.link(root / "other", tmp_path / "outside-too")
    assert scan(root) == [(b"", 3), (b"/folder", 2), (b"/one", 2), (b"/other", 1)]


def test_source_may_be_a_symlink_and_end_in_slashes(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("text")
    (tmp_path / "link").symlink_to("real")
    tree = scan_directory(os.fsencode(tmp_path / "link") + b"//")
    assert [name for name, _ in tree.root.children] == [b"file"]


@pytest.mark.parametrize(
    ("name", "complaint"), [("nothing", "does not exist"), ("file", "is not a directory")]
)
def test_wrong_source_is_named(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match=f"/{name}' {complaint}"):
        scan_directory(os.fsencode(tmp_path / name))


def test_foreign_attributes_are_left_out_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No local file system has such attributes, so the listing pretends."""
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
        os.setxattr(tmp_path / name, "user.kept", b"value")
    real = os.listxattr

    def listxattr(path: bytes, *, follow_symlinks: bool) -> list[str]:
        extra = [] if path == os.fsencode(tmp_path) else ["system.nfs4_acl", "btrfs.compression"]
        return real(path, follow_symlinks=follow_symlinks) + extra

    monkeypatch.setattr(os, "listxattr", listxattr)
    tree = scan_directory(os.fsencode(tmp_path))
    assert [inode.xattrs for inode in tree.inodes[1:]] == [{b"user.kept": b"value"}] * 3
    assert tree.warnings == [
        f"attribute {name!r} cannot be stored in RAFS and was left out of 3 file(s), "
        f"the first is '{tmp_path}/a'"
        for name in ("btrfs.compression", "system.nfs4_acl")
    ]


def test_too_long_attribute_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux allows 65536 bytes, one more than RAFS; ext4 allows fewer, so the value pretends."""
    (tmp_path / "file").touch()
    os.setxattr(tmp_path / "file", "user.long", b"value")
    monkeypatch.setattr(os, "getxattr", lambda path, name, follow_symlinks: bytes(65536))
    with pytest.raises(
        BuildError, match=r"/file': attribute 'user\.long' has 65536 bytes, RAFS stores 65535 at most"
    ):
        scan_directory(os.fsencode(tmp_path))


def test_folder_that_vanishes_during_the_scan_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "c").mkdir(parents=True)

    def remove(entries: int) -> None:
        if (tmp_path / "b").exists():
            shutil.rmtree(tmp_path / "b")

    with pytest.raises(BuildError, match="/b' vanished or was replaced during the build"):
        scan_directory(os.fsencode(tmp_path), remove)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_symlink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace_by_twin(path: Path) -> None:
    """Another inode with the same content and times."""
    shutil.copy2(path, path.with_name("twin"))
    path.with_name("twin").rename(path)


def write_in_place(path: Path) -> None:
    """The same size, and the old mtime put back."""
    st = path.stat()
    path.write_bytes(b"D" * st.st_size)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (Path.unlink, "vanished or was replaced"),
        (replace_by_symlink, "vanished or was replaced"),
        (replace_by_fifo, "changed"),
        (replace_by_twin, "changed"),
        (write_in_place, "changed"),
        (lambda path: os.truncate(path, 10), "changed"),
        (lambda path: os.truncate(path, 100_000), "changed"),
    ],
)
def test_file_that_changes_during_the_build_is_named(
    tmp_path: Path, change: Callable[[Path], None], complaint: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "before").write_bytes(b"b" * 5000)
    (source / "file").write_bytes(b"d" * 5000)

    class Intruder:
        def scanned(self, entries: int) -> None:
            change(source / "file")

        def packed(self, done: int, total: int | None) -> None:
            pass

    with pytest.raises(BuildError, match=f"/file' {complaint} during the build; build from a tree at rest"):
        build_image(source, tmp_path / "image.boot", tmp_path / "blobs", progress=Intruder())
    assert not (tmp_path / "image.boot").exists()
    assert list((tmp_path / "blobs").iterdir()) == []


def test_file_that_shrinks_or_grows_while_open_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"d" * 5000)
    inode = scan_directory(os.fsencode(tmp_path)).inodes[1]
    with pytest.raises(BuildError, match="/file' changed"), SourceFile(inode) as file:
        os.truncate(path, 4000)
        file.read(0, 5000)
    inode = scan_directory(os.fsencode(tmp_path)).inodes[1]
    with pytest.raises(BuildError, match="/file' changed"), SourceFile(inode) as file:
        assert file.read(0, 4000) == b"d" * 4000
        os.truncate(path, 6000)


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["source/file", "source/folder", "source/closed/inner"])
def test_unreadable_entry_is_named(tmp_path: Path, name: str) -> None:
    for folder in [tmp_path, *tmp_path.parents[:2]]:  # pytest's own are for their owner only
        folder.chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    (tmp_path / "source").mkdir()
    if name == "source/file":
        (tmp_path / name).write_bytes(b"data")
        (tmp_path / name).chmod(0o600)
    else:
        (tmp_path / name).mkdir(parents=True)
        # a folder that can be listed but not entered hides the attributes of its entries
        (tmp_path / "source/closed").chmod(0o744) if "closed" in name else (tmp_path / name).chmod(0o700)
    with (
        as_nobody(),
        pytest.raises(BuildError, match=f"/{name}' cannot be read: Permission denied; run as its owner"),
    ):
        build_image(tmp_path / "source", tmp_path / "out" / "image.boot", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
