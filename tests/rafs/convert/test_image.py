"""Whole conversions between layouts and registries, each result checked as a client would find it."""

from __future__ import annotations

import asyncio
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rafs
from rafs.build import BuildOptions
from rafs.convert import ConvertOptions, KeepOci, convert_image
from rafs.errors import BuildError
from rafs.image import Image
from rafs.oci.descriptor import OCI_INDEX, OCI_MANIFEST, RAFS_MANIFEST, Descriptor
from rafs.oci.image import Platform
from rafs.oci.layout import Layout
from rafs.oci.place import Place, RegistryPlace
from rafs.registry.referrers import list_referrers
from tests.fakes.conversion import Recorder, check_tree, convert, fetch_all, fetch_from, places, served
from tests.fakes.converted import check_manifest
from tests.fakes.oci_image import EXPECTED, LAYERS, add_image, add_index, for_platform
from tests.fakes.served_registry import registry_served
from tests.tars import Member


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "source")
    add_image(layout, LAYERS, tag="v1")
    return layout


@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_layout_to_layout(tmp_path: Path, kind: str, compression: str) -> None:
    source, target = Layout(tmp_path / "source"), Layout(tmp_path / "target")
    add_image(source, LAYERS, tag="v1", kind=kind, compression=compression)
    result, recorder = await convert(f"oci:{source.folder}:v1", f"{target.folder}:rafs", tmp_path / "work")
    named = target.resolve("rafs")
    assert (named.digest, named.media_type) == (result.named.digest, OCI_MANIFEST)
    boot, blob_files = check_manifest(fetch_from(target), named.digest, tmp_path / "got")
    check_tree(boot, blob_files)
    assert [step for _, step in recorder.steps].count("convert") == 3
    for layer in result.images[0].layers:
        assert recorder.sizes[layer.source.digest, "fetch"] == layer.source.size
        assert layer.blob is None or recorder.sizes[layer.source.digest, "push"] == layer.blob.size
    # nothing but what is remembered stays
    left = [path.name for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert sorted(set(left)) == ["bootstrap", "lock", "record.json"]


async def test_rafs_v5(tmp_path: Path, source: Layout) -> None:
    target = Layout(tmp_path / "target")
    build = BuildOptions(chunk_size=4096, fs_version=5)
    result, _ = await convert(f"{source.folder}", f"{target.folder}:t", tmp_path / "work", build=build)
    boot, blob_files = check_manifest(
        fetch_from(target), result.named.digest, tmp_path / "got", fs_version="5"
    )
    assert len(blob_files) == 3
    with rafs.open(boot, tmp_path / "got") as image:
        assert {name: image.read(f"/{name}") for name in EXPECTED} == EXPECTED
        assert {path.decode()[1:] for path, inode in image.walk() if stat.S_ISREG(inode.mode)} == set(
            EXPECTED
        )


async def test_what_the_configuration_says(tmp_path: Path, source: Layout) -> None:
    result, _ = await convert(f"{source.folder}", f"{tmp_path}/target:t", tmp_path / "work")
    target = Layout(tmp_path / "target")
    manifest = json.loads(target.read(result.named))
    config = json.loads(target.blob_path(manifest["config"]["digest"]).read_bytes())
    assert config["config"] == {"Env": ["PATH=/usr/bin"], "Cmd": ["/usr/bin/tool"]}
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    made = [(entry["created_by"], entry.get("empty_layer", False)) for entry in config["history"]]
    assert made == [
        ("layer 0", False),
        ("ENV A=1", True),
        ("layer 1", False),
        ("layer 2", False),
        ("vhostfs convert", False),
    ]
    assert manifest["annotations"] == {
        "containerd.io/snapshot/nydus-source-digest": source.resolve("v1").digest
    }
    assert "subject" not in manifest


async def test_layers_without_data(tmp_path: Path) -> None:
    """A layer of whiteouts, one whose data is gone in the end, and the same layer twice."""
    source = Layout(tmp_path / "source")
    layers = [
        [Member("a", b"1" * 9000)],
        [Member("b", b"2" * 9000)],
        [Member(".wh.b")],
        [Member("a", b"1" * 9000)],
    ]
    add_image(source, layers, tag="v1")
    result, _ = await convert(f"{source.folder}", f"{tmp_path}/target:t", tmp_path / "work")
    target = Layout(tmp_path / "target")
    boot, blob_files = check_manifest(fetch_from(target), result.named.digest, tmp_path / "got")
    assert len(blob_files) == 1
    check_tree(boot, blob_files, {"a": b"1" * 9000})


async def test_the_same_again_is_known(tmp_path: Path, source: Layout) -> None:
    first, _ = await convert(f"{source.folder}", f"{tmp_path}/target:t", tmp_path / "work")
    second, recorder = await convert(f"{source.folder}", f"{tmp_path}/target:u", tmp_path / "work")
    assert second.named.digest == first.named.digest
    assert recorder.steps == [] and set(recorder.outcomes.values()) == {"converted before"}
    # another target of the kind that nothing can be taken over from
    third, recorder = await convert(f"{source.folder}", f"{tmp_path}/other:t", tmp_path / "work")
    assert third.named.digest == first.named.digest
    assert set(recorder.outcomes.values()) == {"converted"}
    # and somewhere else, with other numbers of threads
    fourth, _ = await convert(
        f"{source.folder}",
        f"{tmp_path}/more:t",
        tmp_path / "work2",
        build=BuildOptions(chunk_size=4096, jobs=1),
        layers_at_once=1,
    )
    assert fourth.named.digest == first.named.digest


@pytest.mark.parametrize("registry", ["ours", "docker-registry"])
async def test_registry_to_registry(tmp_path: Path, source: Layout, registry: str) -> None:
    with served(registry, tmp_path / "registry") as host:
        async with places(f"{source.folder}", f"{host}/oci/web:1") as (one, two):
            await _copy(one, two)
        result, _ = await convert(f"{host}/oci/web:1", f"docker://{host}/rafs/web:1", tmp_path / "work")
        async with places(f"{host}/rafs/web:1") as (place,):
            assert (await place.resolve()).digest == result.named.digest
            content = await fetch_all(place, result.named)
        boot, blob_files = check_manifest(content.__getitem__, result.named.digest, tmp_path / "got")
        check_tree(boot, blob_files)
        # to another repository of it, blobs are mounted and not converted again
        again, recorder = await convert(f"{host}/oci/web:1", f"{host}/rafs/copy:1", tmp_path / "work")
        assert again.named.digest == result.named.digest
        assert recorder.steps == []


async def _copy(source: Place, target: Place) -> None:
    top = await source.resolve()
    content = await source.read(top)
    document = json.loads(content)
    for raw in (document["config"], *document["layers"]):
        blob = Descriptor.parse(raw, "blob")
        path = await source.fetch(blob, Path("/nowhere"), lambda size: None)
        await target.put_blob(blob, path, lambda size: None)
    await target.put_manifest(top, content, is_named=True)


async def test_an_index_of_several_platforms(tmp_path: Path) -> None:
    source, target = Layout(tmp_path / "source"), Layout(tmp_path / "target")
    arm = add_image(source, [*LAYERS, [Member("arm", b"1")]], tag=None, architecture="arm64")
    amd = add_image(source, LAYERS, tag=None)
    windows = add_image(source, [[Member("w", b"1")]], tag=None)
    index = add_index(
        source,
        [for_platform(arm, "arm64"), for_platform(amd, "amd64"), for_platform(windows, "amd64", "windows")],
        tag="multi",
    )
    result, _ = await convert(f"{source.folder}:multi", f"{target.folder}:all", tmp_path / "work")
    assert result.named.media_type == OCI_INDEX
    entries = json.loads(target.read(result.named))["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == ["arm64", "amd64"]
    assert {entry["artifactType"] for entry in entries} == {"application/vnd.nydus.image.manifest.v1+json"}
    for entry, more in zip(entries, ({"arm": b"1"}, {}), strict=True):
        got = tmp_path / entry["platform"]["architecture"]
        boot, blob_files = check_manifest(fetch_from(target), entry["digest"], got)
        check_tree(boot, blob_files, {**EXPECTED, **more})
    one, _ = await convert(
        f"{source.folder}:multi",
        f"{target.folder}:amd",
        tmp_path / "work",
        platforms=(Platform("linux", "amd64"),),
    )
    assert one.named.digest == entries[1]["digest"]
    with pytest.raises(
        BuildError, match=r"not made for linux/s390x; it has linux/arm64, linux/amd64, windows"
    ):
        await convert(
            f"{source.folder}:multi",
            f"{target.folder}:x",
            tmp_path / "work",
            platforms=(Platform("linux", "s390x"),),
        )
    assert index.media_type == OCI_INDEX


async def test_both_in_one_index(tmp_path: Path, source: Layout) -> None:
    target = Layout(tmp_path / "target")
    result, _ = await convert(
        f"{source.folder}", f"{target.folder}:both", tmp_path / "work", keep_oci=KeepOci.INDEX
    )
    original, converted = json.loads(target.read(result.named))["manifests"]
    assert original["digest"] == source.resolve("v1").digest
    assert original["platform"] == {"architecture": "amd64", "os": "linux"}
    assert converted["platform"] == {**original["platform"], "os.features": ["nydus.remoteimage.v1"]}
    config_type = "application/vnd.nydus.image.config.v1+json"
    boot, blob_files = check_manifest(fetch_from(target), converted["digest"], tmp_path / "got", config_type)
    check_tree(boot, blob_files)
    # the original is whole
    manifest = json.loads(target.blob_path(original["digest"]).read_bytes())
    for blob in (manifest["config"], *manifest["layers"]):
        target.check(Descriptor.parse(blob, "blob"))


@pytest.mark.parametrize("registry", ["ours", "docker-registry"])
async def test_as_referrer(tmp_path: Path, source: Layout, registry: str) -> None:
    """With and without the registry's help; the original is what the name stands for."""

    with served(registry, tmp_path / "registry") as host:
        target = f"{host}/web:1"
        result, _ = await convert(f"{source.folder}", target, tmp_path / "work", keep_oci=KeepOci.REFERRER)
        async with places(target) as (place,):
            top = await place.resolve()
            assert top.digest == source.resolve("v1").digest == result.named.digest
            assert isinstance(place, RegistryPlace)
            (referrer,) = await list_referrers(place._client, top.digest, RAFS_MANIFEST)
            content = await fetch_all(place, Descriptor(OCI_MANIFEST, referrer.digest, referrer.size))
    assert json.loads(content[referrer.digest])["subject"] == {
        "mediaType": OCI_MANIFEST,
        "digest": top.digest,
        "size": top.size,
    }
    boot, blob_files = check_manifest(content.__getitem__, referrer.digest, tmp_path / "got")
    check_tree(boot, blob_files)


async def test_a_dictionary_of_chunks(tmp_path: Path, source: Layout) -> None:
    """Its blobs must be where the image goes, and become layers of it."""
    base = Layout(tmp_path / "base")
    add_image(base, [LAYERS[0]], tag="v1")
    target = tmp_path / "target"
    first, _ = await convert(f"{base.folder}", f"{target}:base", tmp_path / "work")
    boot, _ = check_manifest(fetch_from(Layout(target)), first.named.digest, tmp_path / "base-got")
    build = BuildOptions(chunk_size=4096, chunk_dict=boot)
    result, _ = await convert(f"{source.folder}", f"{target}:t", tmp_path / "work", build=build)
    assert first.images[0].blobs[0] in result.images[0].blobs
    assert result.images[0].layers[0].blob is None
    got, blob_files = check_manifest(fetch_from(Layout(target)), result.named.digest, tmp_path / "got")
    check_tree(got, blob_files)
    with pytest.raises(BuildError, match="push the dictionary's image there first"):
        await convert(f"{source.folder}", f"{tmp_path}/elsewhere:t", tmp_path / "work", build=build)


async def test_an_image_as_dictionary(tmp_path: Path, source: Layout) -> None:
    """Its blob is taken over from its repository; what is no RAFS image is none."""
    base = Layout(tmp_path / "base")
    add_image(base, [LAYERS[0]], tag="v1")
    with registry_served(tmp_path / "registry") as host:
        first, _ = await convert(f"{base.folder}", f"{host}/base:1", tmp_path / "work")
        async with places(f"{source.folder}", f"{host}/web:1", f"{host}/base:1", f"{base.folder}") as opened:
            one, two, dictionary, plain = opened
            options = ConvertOptions(tmp_path / "work", BuildOptions(chunk_size=4096), dictionary=dictionary)
            result = await convert_image(one, two, options)
            content = await fetch_all(two, result.named)
            with pytest.raises(BuildError, match="is no RAFS image, so it cannot be a chunk dictionary"):
                await convert_image(one, two, replace(options, dictionary=plain))
    assert first.images[0].blobs[0] in result.images[0].blobs
    got, blob_files = check_manifest(content.__getitem__, result.named.digest, tmp_path / "got")
    check_tree(got, blob_files)


async def test_ending_a_conversion_ends_its_work(tmp_path: Path) -> None:
    """No thread goes on with a layer that nobody waits for."""
    source = Layout(tmp_path / "source")
    size = 256 << 20
    add_image(source, [[Member("zeros", bytes(size))]], tag="v1", compression="none")
    ends: list[asyncio.Task[Any]] = []

    class Ender(Recorder):
        def advance(self, layer: str, size: int) -> None:
            super().advance(layer, size)
            if self._step[layer] == "convert":
                ends[0].cancel()

    recorder = Ender()
    async with places(f"{source.folder}", f"{tmp_path}/target:t") as (one, two):
        options = ConvertOptions(tmp_path / "work", BuildOptions(jobs=1))
        ends.append(asyncio.create_task(convert_image(one, two, options, recorder)))
        with pytest.raises(asyncio.CancelledError):
            await ends[0]
        await asyncio.get_running_loop().shutdown_default_executor()
    (read,) = (amount for (_, step), amount in recorder.sizes.items() if step == "convert")
    assert 0 < read < size / 2


async def test_prefetch_list(tmp_path: Path, source: Layout) -> None:
    target = Layout(tmp_path / "target")
    result, _ = await convert(
        f"{source.folder}",
        f"{target.folder}:t",
        tmp_path / "work",
        prefetch=(b"/var/lib", b"/usr/bin/tool", b"/etc/gone"),
    )
    assert result.warnings == ("'/etc/gone' is to be prefetched, but is not in the image",)
    boot, _ = check_manifest(fetch_from(target), result.named.digest, tmp_path / "got")
    image = Image(boot)
    assert image.prefetch_nids() == [image.resolve(b"/var/lib"), image.resolve(b"/usr/bin/tool")]
    image.close()


async def test_a_converted_image_is_not_converted(tmp_path: Path, source: Layout) -> None:
    await convert(f"{source.folder}", f"{tmp_path}/target:t", tmp_path / "work")
    with pytest.raises(BuildError, match="is a RAFS image already"):
        await convert(f"{tmp_path}/target:t", f"{tmp_path}/again:t", tmp_path / "work")


async def test_what_breaks_leaves_no_name(tmp_path: Path) -> None:
    """The last layer is no archive: the others are there, for the next time, and nothing names them."""
    source, target = Layout(tmp_path / "source"), Layout(tmp_path / "target")
    add_image(source, [*LAYERS, b"no archive"], tag="v1")
    with pytest.raises(BuildError, match=r"layer sha256:.* is not a valid archive"):
        await convert(f"{source.folder}", f"{target.folder}:t", tmp_path / "work", layers_at_once=1)
    assert target.entries() == []
    fixed = add_image(source, LAYERS, tag="v1")
    _, recorder = await convert(f"{source.folder}:v1", f"{target.folder}:t", tmp_path / "work")
    assert set(recorder.outcomes.values()) == {"converted before"}
    assert fixed.digest in {entry.digest for entry in source.entries()}


DAMAGED = {
    "layer": (
        lambda manifest: manifest["layers"][0]["digest"],
        b"x",
        "is damaged: 1 bytes of another digest",
    ),
    "config": (lambda manifest: manifest["config"]["digest"], b"{}", "is damaged: its digest is"),
    "missing": (lambda manifest: manifest["layers"][1]["digest"], None, "has no blob sha256:"),
}


@pytest.mark.parametrize("case", DAMAGED)
async def test_damaged_layouts(tmp_path: Path, source: Layout, case: str) -> None:
    which, content, said = DAMAGED[case]
    path = source.blob_path(which(json.loads(source.read(source.resolve("v1")))))  # type: ignore[no-untyped-call]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildError, match=said):
        await convert(f"{source.folder}", f"{tmp_path}/target:t", tmp_path / "work")
