"""Random layers: built one by one and merged, they show what overlay semantics say, whoever reads.

The model here is flat: a layer first removes paths of what is below, then sets its own. It shares nothing
with the code, which merges trees.
"""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rafs
from rafs.build import BuildOptions, TarSource, Whiteouts, build_image, merge_bootstraps
from rafs.image import Image
from tests import erofs, tars
from tests.rafs.build.test_our_reader import seen
from tests.trees import Entry, describe, differences

CHUNK_SIZE = 4096
Path_ = tuple[str, ...]

names = st.sampled_from(["a", "b", "c", ".w", "zz"])
attributes = st.fixed_dictionaries(
    {
        "mode": st.sampled_from([0o644, 0o755, 0o4755, 0]),
        "uid": st.sampled_from([0, 1000]),
        "mtime_ns": st.sampled_from([0, 1, 1_700_000_000_123_456_789, -1_500_000_001]),
        "xattrs": st.dictionaries(
            st.sampled_from(["trusted.a", "security.b"]), st.binary(max_size=9), max_size=2
        ),
    }
)
contents = st.builds(
    lambda pattern, size: (pattern * size)[:size],
    st.sampled_from([b"\0", b"ab", b"xyz", b"0123456789abcdef!"]),
    st.sampled_from([0, 1, 17, 4095, 4096, 4097, 12_288, 20_001]),
)
leaves = st.one_of(
    st.fixed_dictionaries({"kind": st.just("file"), "data": contents, "with": attributes}),
    st.fixed_dictionaries({"kind": st.just("symlink"), "target": names, "with": attributes}),
    st.fixed_dictionaries({"kind": st.just("fifo"), "with": attributes}),
    st.fixed_dictionaries({"kind": st.just("link"), "number": st.integers(0, 9)}),
)


def folders(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "kind": st.just("folder"),
            "names": st.dictionaries(names, inner, max_size=4),
            "removed": st.sets(names, max_size=2),
            "is_opaque": st.booleans(),
            "is_described": st.booleans(),
            "with": attributes,
        }
    )


layers = st.lists(folders(st.recursive(leaves, folders, max_leaves=12)), min_size=0, max_size=4)


@dataclass
class Object:
    """A file system object of the model; names that share one are hard links."""

    mode: int
    uid: int = 0
    mtime_ns: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    data: bytes = b""
    target: bytes = b""


class Layer:
    """One drawn layer, as an archive and as what it does to the model."""

    def __init__(self, root: dict[str, Any], spec: Whiteouts) -> None:
        self.members: list[tars.Member] = []
        self.removed: list[Path_] = []
        self.emptied: list[Path_] = []
        self.objects: dict[Path_, Object | None] = {}  # None: a folder that is not described
        self._spec = spec
        self._links: list[tuple[str, Object]] = []
        self._folder((), root)

    def _member(self, path: Path_, given: dict[str, Any], **more: Any) -> tars.Member:
        return tars.Member("/".join(path) or ".", **{**given, **more})

    def _folder(self, path: Path_, drawn: dict[str, Any]) -> None:
        given = dict(drawn["with"])
        opaque_by_xattr = self._spec is Whiteouts.OVERLAYFS and drawn["is_opaque"]
        if drawn["is_described"] or opaque_by_xattr:
            self.objects[path] = self._object(stat.S_IFDIR, given)
            if opaque_by_xattr:
                given["xattrs"] = {**given["xattrs"], "trusted.overlay.opaque": b"y"}
            self.members.append(self._member(path, given, type=tarfile.DIRTYPE))
        else:
            self.objects[path] = None
        entries_before = len(self.members)
        if drawn["is_opaque"]:
            self.emptied.append(path)
            if self._spec is Whiteouts.OCI:
                self.members.append(tars.Member("/".join((*path, ".wh..wh..opq"))))
        for name in sorted(drawn["removed"]):
            if self._spec is Whiteouts.OCI:
                self.members.append(tars.Member("/".join((*path, ".wh." + name))))
            elif name not in drawn["names"]:
                self.members.append(tars.Member("/".join((*path, name)), type=tarfile.CHRTYPE))
            else:
                continue  # the name is taken
            self.removed.append((*path, name))
        for name, entry in sorted(drawn["names"].items()):
            self._entry((*path, name), entry)
        if self.objects[path] is None and len(self.members) == entries_before:
            del self.objects[path]  # nothing in the archive speaks of it

    def _entry(self, path: Path_, drawn: dict[str, Any]) -> None:
        kind = drawn["kind"]
        if kind == "folder":
            self._folder(path, drawn)
            return
        if kind == "link":
            if self._links:
                target, linked = self._links[drawn["number"] % len(self._links)]
                self.members.append(tars.hard_link("/".join(path), target))
                self.objects[path] = linked
            return
        given = drawn["with"]
        if kind == "file":
            made = self._object(stat.S_IFREG, given)
            made.data = drawn["data"]
            self.members.append(self._member(path, given, data=made.data))
        elif kind == "symlink":
            made = self._object(stat.S_IFLNK, {**given, "mode": 0o777})
            made.target = drawn["target"].encode()
            self.members.append(self._member(path, given, type=tarfile.SYMTYPE, linkname=drawn["target"]))
        else:
            made = self._object(stat.S_IFIFO, given)
            self.members.append(self._member(path, given, type=tarfile.FIFOTYPE))
        self.objects[path] = made
        self._links.append(("/".join(path), made))

    def _object(self, kind: int, given: dict[str, Any]) -> Object:
        xattrs = {name.encode(): value for name, value in given["xattrs"].items()}
        return Object(kind | given["mode"], given["uid"], given["mtime_ns"], xattrs)

    def apply(self, model: dict[Path_, Object]) -> None:
        for top in self.emptied:
            remove(model, top, with_itself=False)
        for top in self.removed:
            remove(model, top, with_itself=True)
        for path, made in self.objects.items():
            old = model.get(path)
            if made is None:
                if old is None or not stat.S_ISDIR(old.mode):
                    model[path] = Object(stat.S_IFDIR | 0o755)
                continue
            if not stat.S_ISDIR(made.mode):
                remove(model, path, with_itself=True)
            model[path] = made


def remove(model: dict[Path_, Object], top: Path_, *, with_itself: bool) -> None:
    for path in list(model):
        if path[: len(top)] == top and (with_itself or path != top):
            del model[path]


def expected(model: dict[Path_, Object]) -> dict[bytes, Entry]:
    """The model as tests.trees.describe would find it."""
    first: dict[int, bytes] = {}
    walk = [(), *sorted_as_walked(model)]
    shown = {path: "/".join(path).encode() or b"." for path in walk}
    for path in walk:
        first.setdefault(id(model[path]), shown[path])
    found = {}
    for path in walk:
        made = model[path]
        is_dir = stat.S_ISDIR(made.mode)
        below = [other for other in model if other[:-1] == path and other]
        found[shown[path]] = Entry(
            mode=made.mode,
            uid=made.uid,
            gid=0,
            size=0 if is_dir else len(made.data or made.target),
            mtime_ns=made.mtime_ns,
            nlink=2 + sum(stat.S_ISDIR(model[other].mode) for other in below)
            if is_dir
            else sum(other is made for other in model.values()),
            rdev=0,
            link_of=first[id(made)],
            target=made.target,
            xattrs=made.xattrs,
            sha256=hashlib.sha256(made.data).hexdigest() if stat.S_ISREG(made.mode) else "",
        )
    return found


def sorted_as_walked(model: dict[Path_, Object]) -> list[Path_]:
    """Paths in the order of tests.trees.describe: all names of a folder, then its last sub-folder first."""
    order: list[Path_] = []
    waiting: list[Path_] = [()]
    while waiting:
        folder = waiting.pop()
        names = sorted(path for path in model if path and path[:-1] == folder)
        order += names
        waiting += [path for path in names if stat.S_ISDIR(model[path].mode)]
    return order


def read_by_us(bootstrap: Path, blob_dir: Path, entries: dict[bytes, Entry]) -> list[str]:
    """What our reader finds otherwise than `entries`, content included."""
    wrong, paths = [], set()
    with rafs.open(bootstrap, blob_dir) as filesystem, closing(Image(bootstrap)) as image:
        for path, inode in image.walk():
            name = path[1:] or b"."
            paths.add(name)
            if name not in entries:
                wrong.append(f"unexpected {name!r}")
                continue
            wrong += seen(image, path, inode, entries[name])
            if stat.S_ISREG(inode.mode):
                content = filesystem.read(path) if inode.size else b""
                if hashlib.sha256(content).hexdigest() != entries[name].sha256:
                    wrong.append(f"{name!r}: other content")
    return wrong + [f"missing {name!r}" for name in entries.keys() - paths]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    drawn=layers,
    spec=st.sampled_from([Whiteouts.OCI, Whiteouts.OVERLAYFS]),
    stacked=st.booleans(),
    fs_version=st.sampled_from([6, 6, 5]),
)
def test_layers_show_what_the_model_says(
    drawn: list[Any], spec: Whiteouts, stacked: bool, fs_version: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="vhostfs-layers-") as folder:
        scratch = Path(folder)
        model: dict[Path_, Object] = {(): Object(stat.S_IFDIR | 0o755)}
        bootstraps: list[Path] = []
        for number, root in enumerate(drawn):
            layer = Layer(root, spec)
            layer.apply(model)
            source = TarSource(io.BytesIO(tars.archive(layer.members)), f"layer {number}")
            # each on top of the ones before, or each for itself
            options = BuildOptions(
                "none",
                chunk_size=CHUNK_SIZE,
                whiteouts=spec if stacked else Whiteouts.NONE,
                parent=bootstraps[-1] if stacked and bootstraps else None,
                fs_version=fs_version,
            )
            target = scratch / f"{number}.boot"
            bootstraps.append(build_image(source, target, scratch / "blobs", options).bootstrap_path)
        if not drawn:
            return
        final = bootstraps[-1]
        if not stacked:
            final = merge_bootstraps(bootstraps, scratch / "merged.boot", whiteouts=spec).bootstrap_path
        entries = expected(model)
        assert read_by_us(final, scratch / "blobs", entries) == []
        if fs_version == 5:
            return
        image = Image(final)
        ids = [image.blob_record(index).blob_id.decode() for index in range(image.blob_count)]
        image.close()
        devices = [scratch / "blobs" / blob_id for blob_id in ids]
        erofs.fsck(final, devices)
        with erofs.mounted(final, devices) as point:
            assert differences(entries, describe(point)) == []
