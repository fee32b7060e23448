"""Merged bootstraps, chunk dictionaries, prefetch lists: what the tables say, what needs no data again."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from rafs.build import (
    BuildError,
    BuildOptions,
    BuildResult,
    PrefetchPolicy,
    TarSource,
    Whiteouts,
    build_image,
    merge_bootstraps,
)
from rafs.image import Image
from tests import erofs, tars
from tests.tars import Member

CHUNK = 4096
A, B, C = (bytes([letter]) * 10_000 for letter in b"abc")


def build_layer(folder: Path, name: str, members: list[Member], **options: object) -> BuildResult:
    chosen = BuildOptions(**{"compressor": "none", "chunk_size": CHUNK, **options})  # type: ignore[arg-type]
    source = TarSource(io.BytesIO(tars.archive(members)), name)
    return build_image(source, folder / name, folder / "blobs", chosen)


def blob_ids(bootstrap: Path) -> list[str]:
    image = Image(bootstrap)
    ids = [image.blob_record(index).blob_id.decode() for index in range(image.blob_count)]
    image.close()
    return ids


def read_by_kernel(bootstrap: Path, blobs: Path) -> dict[str, bytes]:
    devices = [blobs / blob_id for blob_id in blob_ids(bootstrap)]
    erofs.fsck(bootstrap, devices)
    with erofs.mounted(bootstrap, devices) as point:
        return {
            str(path.relative_to(point)): path.read_bytes() for path in point.rglob("*") if path.is_file()
        }


def test_only_blobs_in_use_are_named_in_order_of_use(tmp_path: Path) -> None:
    one = build_layer(tmp_path, "1", [Member("z", A)])
    two = build_layer(tmp_path, "2", [Member("gone", B)])
    three = build_layer(tmp_path, "3", [Member("a", C), Member(".wh.gone")])
    result = merge_bootstraps([one.bootstrap_path, two.bootstrap_path, three.bootstrap_path], tmp_path / "m")
    # "a" stands before "z" in the tree
    assert result.blob_ids == (three.blob_ids[0], one.blob_ids[0]) == tuple(blob_ids(tmp_path / "m"))
    assert read_by_kernel(tmp_path / "m", tmp_path / "blobs") == {"a": C, "z": A}
    assert (result.entry_count, result.inode_count, result.data_size) == (3, 3, 20_000)


def test_a_chunk_of_several_layers_is_taken_from_the_lowest(tmp_path: Path) -> None:
    one = build_layer(tmp_path, "1", [Member("first", A)])
    two = build_layer(tmp_path, "2", [Member("again", A), Member("more", A + B)])
    result = merge_bootstraps([one.bootstrap_path, two.bootstrap_path], tmp_path / "m")
    image = Image(tmp_path / "m")
    extents = list(image.extents(image.resolve(b"/again"), 0, len(A)))
    assert {extent.blob_index for extent in extents} == {result.blob_ids.index(one.blob_ids[0])}
    image.close()
    expected = {"first": A, "again": A, "more": A + B}
    assert read_by_kernel(tmp_path / "m", tmp_path / "blobs") == expected


def test_layers_without_data(tmp_path: Path) -> None:
    one = build_layer(tmp_path, "1", [tars.directory("d")])
    result = merge_bootstraps([one.bootstrap_path], tmp_path / "m")
    assert (result.blob_ids, result.entry_count) == ((), 2)


def test_same_layers_same_bytes(tmp_path: Path) -> None:
    layers = [
        build_layer(tmp_path, str(number), [Member(f"{number}/{name}", os.urandom(9000)) for name in "xyz"])
        for number in range(3)
    ]
    paths = [layer.bootstrap_path for layer in layers]
    first, second = (merge_bootstraps(paths, tmp_path / name).bootstrap_path for name in ("m1", "m2"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("as_parent", [False, True])
def test_known_chunks_are_not_stored_again(tmp_path: Path, as_parent: bool) -> None:
    base = build_layer(tmp_path, "base", [Member("base", A + B)])
    option = {"parent" if as_parent else "chunk_dict": base.bootstrap_path}
    # 10,000 bytes of "a" are two chunks of 4096 and a rest that the base does not have
    result = build_layer(tmp_path, "new", [Member("new", A[:8192] + C[:5000])], **option)
    assert result.blob is not None and result.blob.chunk_count == 2
    assert set(result.blob_ids) == {base.blob_ids[0], result.blob.blob_id}
    expected = {"new": A[:8192] + C[:5000], **({"base": A + B} if as_parent else {})}
    assert read_by_kernel(tmp_path / "new", tmp_path / "blobs") == expected
    nothing_new = build_layer(tmp_path, "again", [Member("x", A[:8192])], **option)
    assert nothing_new.blob is None and nothing_new.blob_path is None
    assert nothing_new.blob_ids == base.blob_ids


def test_a_dictionary_of_another_digest_does_not_take_part(tmp_path: Path) -> None:
    base = build_layer(tmp_path, "base", [Member("base", A)], digester="sha256")
    result = build_layer(tmp_path, "new", [Member("new", A)], chunk_dict=base.bootstrap_path)
    assert result.blob is not None and len(result.blob_ids) == 1


def test_a_file_that_is_replaced_leaves_no_blob(tmp_path: Path) -> None:
    result = build_layer(tmp_path, "new", [Member("f", A), tars.directory("f")])
    assert result.blob is None and result.blob_ids == ()
    assert list((tmp_path / "blobs").iterdir()) == []


@pytest.mark.parametrize("what", ["merge", "parent", "chunk_dict"])
def test_chunk_sizes_must_agree(tmp_path: Path, what: str) -> None:
    one = build_layer(tmp_path, "1", [Member("a", A)], chunk_size=8192)
    with pytest.raises(
        BuildError, match="has chunks of 8192 bytes, not of 4096; build with --chunk-size 8192"
    ):
        if what == "merge":
            two = build_layer(tmp_path, "2", [Member("b", B)])
            merge_bootstraps([two.bootstrap_path, one.bootstrap_path], tmp_path / "m")
        else:
            build_layer(tmp_path, "2", [Member("b", B)], **{what: one.bootstrap_path})


def test_what_is_not_a_bootstrap(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"text" * 5000)
    with pytest.raises(BuildError, match=r"text: not a "):
        merge_bootstraps([tmp_path / "text"], tmp_path / "m")
    with pytest.raises(BuildError, match=r"cannot read bootstrap .*missing': No such file"):
        merge_bootstraps([tmp_path / "missing"], tmp_path / "m")
    with pytest.raises(BuildError, match="no layers"):
        merge_bootstraps([], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_too_many_blobs(tmp_path: Path) -> None:
    layers = [
        build_layer(tmp_path, str(number), [Member(str(number), b"%d" % number)]).bootstrap_path
        for number in range(255)
    ]
    merge_bootstraps(layers[:254], tmp_path / "m")
    with pytest.raises(BuildError, match="would need 255 blobs, RAFS has room for 254"):
        merge_bootstraps(layers, tmp_path / "m")


def test_prefetch_list(tmp_path: Path) -> None:
    """Directories cover what is below them; what is missing is said; order is kept."""
    members = [Member("bin/x", A), Member("bin/y", B), Member("etc/z", C)]
    wanted = (b"/etc/z", b"bin", b"/bin/x", b"/no/such", b"//etc/./z")
    result = build_layer(
        tmp_path, "1", members, prefetch=wanted, prefetch_policy=PrefetchPolicy.FS, whiteouts=Whiteouts.OCI
    )
    assert result.warnings == ("'/no/such' is to be prefetched, but is not in the image",)
    image = Image(result.bootstrap_path)
    assert image.prefetch_nids() == [image.resolve(b"/etc/z"), image.resolve(b"/bin")]
    image.close()
    merged = merge_bootstraps([result.bootstrap_path], tmp_path / "m", prefetch=[b"/bin/y"])
    image = Image(merged.bootstrap_path)
    assert image.prefetch_nids() == [image.resolve(b"/bin/y")]
    image.close()
    assert read_by_kernel(tmp_path / "m", tmp_path / "blobs") == {"bin/x": A, "bin/y": B, "etc/z": C}


@pytest.mark.parametrize("policy", PrefetchPolicy)
def test_prefetched_data_comes_first(tmp_path: Path, policy: PrefetchPolicy) -> None:
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    for name, data in (("a", A), ("b/1", B), ("b/2", C)):
        (source / name).write_bytes(data)
    options = BuildOptions("none", chunk_size=CHUNK, prefetch=(b"/b/2", b"/b"), prefetch_policy=policy)
    result = build_image(source, tmp_path / "boot", tmp_path / "blobs", options)
    assert result.blob_path is not None
    first = result.blob_path.read_bytes()[:CHUNK]
    assert first == (A if policy is PrefetchPolicy.NONE else C)[:CHUNK]
    image = Image(result.bootstrap_path)
    assert len(image.prefetch_nids()) == (2 if policy is PrefetchPolicy.FS else 0)
    image.close()
    assert read_by_kernel(tmp_path / "boot", tmp_path / "blobs") == {"a": A, "b/1": B, "b/2": C}
