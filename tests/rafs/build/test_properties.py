"""Random trees: the kernel sees in the image what is in the source."""

# ruff: noqa: PTH101, PTH102, PTH118, PTH123, PTH211 (a pathlib.Path cannot hold bytes)
from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rafs.build import BuildOptions, build_image
from tests import blobs, erofs
from tests.trees import describe, differences

CODECS = {"none": 0, "lz4_block": 1, "zstd": 3}

names = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"...", b"!", b"\xff", b"x" * 255]),
    st.binary(min_size=1, max_size=255).map(lambda name: name.translate(bytes.maketrans(b"\0/", b"0_"))),
).filter(lambda name: name not in (b".", b".."))
border_sizes = st.builds(
    lambda border, factor, delta: max(0, border * factor + delta),
    st.sampled_from([1, 4096, 8192, 65536]),
    st.integers(0, 3),
    st.integers(-1, 1),
)
files = st.fixed_dictionaries(
    {
        "kind": st.just("file"),
        "size": st.one_of(border_sizes, st.integers(0, 20_000)),
        "fill": st.sampled_from([b"\0", b"ab", b"abc", bytes(range(251))]),
        "hole": st.integers(0, 100_000),
    }
)
symlinks = st.fixed_dictionaries(
    {
        "kind": st.just("symlink"),
        "target": st.integers(1, 4095).flatmap(
            lambda size: st.just((b"\xfft/" * 1366)[:size]) | st.just(b"x" * min(size, 200))
        ),
    }
)
special = st.fixed_dictionaries(
    {
        "kind": st.just("special"),
        "type": st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]),
        "rdev": st.builds(os.makedev, st.integers(0, 4095), st.integers(0, 0xFFFFF)),
    }
)
links = st.fixed_dictionaries({"kind": st.just("link"), "number": st.integers(0, 1000)})
attributes = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "owner": st.tuples(*[st.sampled_from([0, 1, 65535, 65536, 0xFFFFFFFE])] * 2),
        "mtime_ns": st.integers(-(10**18), 10**19),
        "xattrs": st.dictionaries(
            st.sampled_from(["trusted.a", "trusted.b\udcff", "security." + "n" * 200]),
            st.binary(max_size=600),
            max_size=3,
        ),
    }
)
leaves = st.tuples(st.one_of(files, symlinks, special, links), attributes)
folders = st.recursive(
    st.dictionaries(names, leaves, max_size=12),
    lambda inner: st.dictionaries(
        names,
        st.one_of(
            leaves, st.tuples(st.fixed_dictionaries({"kind": st.just("folder"), "names": inner}), attributes)
        ),
        max_size=12,
    ),
    max_leaves=6,
)


class Maker:
    """Makes a drawn tree on disk; a hard link goes to any entry made before it."""

    def __init__(self) -> None:
        self.made: list[bytes] = []

    def folder(self, path: bytes, entries: dict[bytes, Any]) -> None:
        for name, (entry, attributes) in entries.items():
            self.entry(os.path.join(path, name), entry, attributes)

    def entry(self, path: bytes, entry: dict[str, Any], attributes: dict[str, Any]) -> None:
        kind = entry["kind"]
        if kind == "link":
            if self.made:
                os.link(self.made[entry["number"] % len(self.made)], path, follow_symlinks=False)
            return
        if kind == "file":
            with open(path, "wb") as file:
                file.truncate(entry["hole"])
                file.seek(entry["hole"])
                file.write((entry["fill"] * (entry["size"] // len(entry["fill"]) + 1))[: entry["size"]])
        elif kind == "symlink":
            os.symlink(entry["target"], path)
        elif kind == "special":
            os.mknod(path, entry["type"] | 0o600, entry["rdev"])
        else:
            os.mkdir(path)
            self.folder(path, entry["names"])
        os.chown(path, *attributes["owner"], follow_symlinks=False)
        if kind != "symlink":
            os.chmod(path, attributes["mode"])
        for name, value in attributes["xattrs"].items():
            os.setxattr(path, name, value, follow_symlinks=False)
        os.utime(path, ns=(attributes["mtime_ns"],) * 2, follow_symlinks=False)
        if kind != "folder":
            self.made.append(path)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tree=folders,
    compressor=st.sampled_from(list(CODECS)),
    digester=st.sampled_from(["blake3", "sha256"]),
    chunk_size=st.sampled_from([4096, 8192, 64 << 10, 1 << 20]),
)
def test_kernel_sees_any_tree(
    tree: dict[bytes, Any], compressor: str, digester: str, chunk_size: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="vhostfs-tree-") as scratch:
        source, out = Path(scratch, "source"), Path(scratch, "out")
        source.mkdir()
        Maker().folder(os.fsencode(source), tree)
        options = BuildOptions(compressor, digester, chunk_size)
        result = build_image(source, out / "image.boot", out, options)
        device = result.blob_path
        if device and compressor != "none":
            device = out / "device"
            blobs.fill_device(out / result.blob_path.name, CODECS[compressor], device)  # type: ignore[union-attr]
        with erofs.mounted(result.bootstrap_path, device) as point:
            assert differences(describe(source), describe(point)) == []
