"""Layouts on disk: what is found, what is damaged, and several writers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from rafs.oci.descriptor import OCI_MANIFEST, Descriptor, InvalidImage
from rafs.oci.layout import REF_NAME, Layout


def put(layout: Layout, content: bytes) -> Descriptor:
    descriptor = Descriptor.of(content, OCI_MANIFEST)
    layout.put(descriptor, content)
    return descriptor


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "layout")
    layout.create()
    return layout


def test_images_are_found_by_tag(layout: Layout) -> None:
    one, two = put(layout, b"{}"), put(layout, b'{"a":1}')
    layout.list(one, "v1")
    assert layout.resolve(None).digest == layout.resolve("v1").digest == one.digest
    layout.list(two, "v2")
    assert layout.resolve("v2").digest == two.digest
    with pytest.raises(InvalidImage, match=r"has 2 images; name one \(v1, v2\)"):
        layout.resolve(None)
    with pytest.raises(InvalidImage, match=r"has no image 'v3' \(v1, v2\)"):
        layout.resolve("v3")
    # a tag moves; what has no tag stays beside it, once
    layout.list(two, "v1")
    layout.list(one, None)
    layout.list(one, None)
    assert layout.resolve("v1").digest == two.digest
    assert [entry.annotations.get(REF_NAME) for entry in layout.entries()] == ["v2", "v1", None]
    assert layout.read(two) == b'{"a":1}'
    assert json.loads((layout.folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_blobs_from_files(layout: Layout, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    descriptor = Descriptor.of(b"content", "x")
    layout.put(descriptor, source)
    source.unlink()
    path = layout.check(descriptor)
    assert path.read_bytes() == b"content" and layout.has(descriptor.digest)
    assert [one.name for one in path.parent.iterdir()] == [descriptor.hex]


def test_what_is_damaged(layout: Layout) -> None:
    descriptor = put(layout, b"{}")
    missing = Descriptor.of(b"missing", OCI_MANIFEST)
    for call in (layout.read, layout.check):
        with pytest.raises(InvalidImage, match=r"lacks blobs/sha256/|has no blob sha256:"):
            call(missing)
    layout.blob_path(descriptor.digest).write_bytes(b"[]")
    for call in (layout.read, layout.check):
        with pytest.raises(InvalidImage, match="is damaged"):
            call(descriptor)
    (layout.folder / "index.json").write_bytes(b'{"manifests": 5}')
    with pytest.raises(InvalidImage, match="has no list of manifests"):
        layout.entries()
    (layout.folder / "index.json").unlink()
    with pytest.raises(InvalidImage, match=r"lacks index.json"):
        layout.entries()
    (layout.folder / "oci-layout").unlink()
    with pytest.raises(InvalidImage, match="it has no file oci-layout"):
        layout.entries()


def test_writers_take_turns(layout: Layout) -> None:
    descriptor = put(layout, b"{}")
    threads = [
        threading.Thread(target=layout.list, args=(descriptor, f"tag-{number}")) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(layout.entries()) == 20
