"""`vhostfs convert` from the outside, and what others make of its images: a guest's driver, and skopeo."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from native.dataplane import ChunkStore, Device
from rafs.backend.config import Registry
from rafs.backend.http import HttpPool
from rafs.backend.registry import RegistryBackend
from rafs.blob_record import BlobRecord
from rafs.blob_store import BlobStore
from rafs.fetch import FetchResources
from rafs.image import Image
from rafs.oci.layout import Layout
from rafs.upcalls import Upcalls
from tests.fakes.blob_store import joined
from tests.fakes.converted import check_manifest
from tests.fakes.oci_image import EXPECTED, LAYERS, add_image
from tests.fakes.registries import docker_registry_at
from tests.fakes.served_registry import registry_served
from tests.fakes.skopeo import inspect, skopeo
from tests.vhostfs.test_daemon import Guest
from vhostfs.__main__ import main
from vhostfs.front_ends import serve_front_ends
from vhostfs.runtime import background
from virtqueue.listener import Listener


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "source")
    add_image(layout, LAYERS, tag="v1")
    return layout


def convert(source: Layout, target: str, work: Path, *options: str) -> int:
    words = ["convert", f"{source.folder}:v1", target, "--work-dir", str(work), "--chunk-size", "4096"]
    return main([*words, *options])


async def read_lazily(bootstrap: Path, registry: Registry, where: Path) -> tuple[dict[str, bytes], int]:
    """Files of EXPECTED as a guest reads them, from the registry; and bytes that were fetched for that."""
    where.mkdir()
    pool = HttpPool()
    backend = RegistryBackend(pool, registry)
    chunks, resources = ChunkStore(), FetchResources()
    upcalls = Upcalls(chunks)
    upcalls.start()
    store = BlobStore(joined(where / "cache"), backend, upcalls, resources)
    store.start()
    listener = Listener.bind(str(where / "sock"))
    try:
        with closing(Image(bootstrap)) as image, closing(Device(chunks)) as device:
            records = [BlobRecord.parse(image.blob_record(index)) for index in range(image.blob_count)]
            blobs = [await store.open_blob(record) for record in records]
            device.mount_image("/", image, [blob.native for blob in blobs])
            async with background(serve_front_ends(listener, device)):
                guest = await asyncio.to_thread(Guest, str(where / "sock"))
                try:
                    seen = {
                        name: await asyncio.to_thread(guest.read, f"/{name}".encode()) for name in EXPECTED
                    }
                finally:
                    await asyncio.to_thread(guest.close)
                    upcalls.stop()
                    await store.stop()
            return seen, store.statistics()["fetched_bytes"]
    finally:
        listener.close()
        upcalls.stop()
        await store.close()
        resources.close()
        chunks.close()
        await backend.close()
        await pool.close()


async def test_what_was_pushed_is_read_lazily(tmp_path: Path, source: Layout) -> None:
    """The way of an operator: converted, pushed to a real registry, found there, read by a guest."""
    with docker_registry_at(tmp_path / "registry") as registry:
        target = f"{registry.host}/rafs/web:1"
        command = [sys.executable, "-m", "vhostfs", "convert", f"{source.folder}:v1", target]
        command += ["--work-dir", str(tmp_path / "work"), "--chunk-size", "4KiB"]
        said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        assert (said.returncode, said.stderr) == (0, "")
        lines = said.stdout.splitlines()
        assert lines[0].startswith("linux/amd64  3 layers, 12 entries, ")
        home = tmp_path / "home"
        copied = Layout(tmp_path / "copied")
        await asyncio.to_thread(
            skopeo, home, "copy", "--src-tls-verify=false", f"docker://{target}", f"oci:{copied.folder}:t"
        )
        digest = copied.resolve("t").digest
        assert lines[-1].startswith(f"{target}  {digest}, in ")
        boot, _ = check_manifest(
            lambda wanted: copied.blob_path(wanted).read_bytes(), digest, tmp_path / "got"
        )
        config = Registry(host=registry.host, repo="rafs/web", scheme="http")
        seen, fetched = await read_lazily(boot, config, tmp_path / "guest")
    assert seen == EXPECTED
    assert 0 < fetched < 40_000


@pytest.mark.parametrize("keep", ["none", "index", "referrer"])
def test_skopeo_copies_and_inspects(tmp_path: Path, source: Layout, keep: str) -> None:
    """From a real registry to ours and on to a layout: the same digest everywhere, and the same words."""
    home = tmp_path / "home"
    with docker_registry_at(tmp_path / "one") as one, registry_served(tmp_path / "two") as two:
        first, second = f"docker://{one.host}/web:1", f"docker://{two}/other/web:1"
        assert convert(source, f"{one.host}/web:1", tmp_path / "work", "--keep-oci", keep) == 0
        insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        skopeo(home, "copy", "--all", *insecure, first, second)
        skopeo(home, "copy", "--all", *insecure, second, f"oci:{tmp_path}/copied:t")
        facts = [inspect(home, name) for name in (first, second)]
        raw = [skopeo(home, "inspect", "--tls-verify=false", "--raw", name) for name in (first, second)]
    copied = Layout(tmp_path / "copied").resolve("t")
    if keep == "index":  # this skopeo knows no artifactType there; by os.features the image is found still
        assert json.loads(raw[1]) == _without_artifact_types(json.loads(raw[0]))
    else:
        assert raw[0] == raw[1]
        assert copied.digest == facts[0]["Digest"] == facts[1]["Digest"]
    assert (facts[0]["Architecture"], facts[0]["Os"]) == ("amd64", "linux")
    layers = facts[0]["Layers"]
    assert len(layers) == (4 if keep == "none" else 3)
    document = json.loads(raw[0])
    assert len(document.get("manifests", [])) == (2 if keep == "index" else 0)


def _without_artifact_types(index: dict[str, Any]) -> dict[str, Any]:
    entries = [
        {key: value for key, value in one.items() if key != "artifactType"} for one in index["manifests"]
    ]
    return {**index, "manifests": entries}


def test_skopeo_pushes_to_our_registry(tmp_path: Path, source: Layout) -> None:
    """And what it pushed is converted from there; its tags and deletion work too."""
    home = tmp_path / "home"
    with registry_served(tmp_path / "registry") as host:
        name = f"docker://{host}/library/web:1"
        skopeo(home, "copy", "--dest-tls-verify=false", f"oci:{source.folder}:v1", name)
        skopeo(
            home, "copy", "--dest-tls-verify=false", f"oci:{source.folder}:v1", f"docker://{host}/mounted:2"
        )
        assert inspect(home, name)["RepoTags"] == ["1"]
        words = ["convert", f"{host}/library/web:1", f"{host}/rafs:1", "--work-dir", str(tmp_path / "work")]
        assert main(words) == 0
        assert len(inspect(home, f"docker://{host}/rafs:1")["Layers"]) == 4
        skopeo(home, "delete", "--tls-verify=false", name)
        listed = json.loads(skopeo(home, "list-tags", "--tls-verify=false", f"docker://{host}/library/web"))
        assert not listed["Tags"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/no/layout:v1", "/tmp/x:y"], "'/no/layout' is no OCI layout"),
        (["{source}:v2", "/tmp/x:y"], "has no image 'v2' (v1)"),
        (
            ["UPPER/case:1", "x/y:z"],
            "'UPPER/case' is no name of a repository; repositories have small letters",
        ),
        (["127.0.0.1:1/a:1", "x/y:z"], "manifest 1 of 127.0.0.1:1/a: 127.0.0.1:1: no connection"),
        (["{source}:v1", "127.0.0.1:1/a:1"], "127.0.0.1:1: no connection"),
        (["{source}:v1", "x/y:z", "--platform", "linux"], "'linux' is no platform"),
        (["{source}:v1", "x/y:z", "--prefetch-files", "/no/list"], "'/no/list': No such file"),
        (["{source}:v1", "x/y:z", "--work-dir", "/dev/null/x"], "'/dev/null/x"),
        (["{source}:v1", "/tmp/x:y", "--chunk-dict", "bootstrap=/no/boot"], "'/no/boot': No such file"),
        (["{source}:v1", "x/y:z", "--compressor", "zstd", "--chunk-size", "1000"], "chunk size 1000 is not"),
    ],
)
def test_what_cannot_be_converted(
    tmp_path: Path, source: Layout, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    filled = [word.format(source=source.folder) for word in words]
    assert main(["convert", "--work-dir", str(tmp_path / "work"), *filled]) == 1
    err = capsys.readouterr().err
    assert err.startswith("vhostfs convert: ") and said in err
    assert err.count("\n") == 1


def test_a_terminal_sees_a_bar_for_each_layer(tmp_path: Path, source: Layout) -> None:
    """And nothing else does: elsewhere what is said on stderr is warnings and errors."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "vhostfs", "convert", f"{source.folder}:v1", f"{tmp_path}/target:t"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(
        [*command, "--work-dir", str(tmp_path / "work")],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environment,
    ) as process:
        os.close(follower)
        said = b""
        with suppress(OSError):  # EIO: nobody writes any more
            while data := os.read(leader, 1 << 16):
                said += data
        os.close(leader)
        out, _ = process.communicate()
    shown = said.decode()
    assert process.returncode == 0, shown
    for layer in json.loads(source.read(source.resolve("v1")))["layers"]:
        assert layer["digest"].removeprefix("sha256:")[:12] in shown
    assert "converted" in shown and "merging 3 layers" in shown
    assert b"\x1b" not in out


def test_interrupted_it_goes_on(tmp_path: Path, source: Layout) -> None:
    """SIGINT ends it at once, here while it waits for another one; the next run does what is left."""
    work = tmp_path / "work"
    with registry_served(tmp_path / "registry") as host:
        command = [sys.executable, "-m", "vhostfs", "convert", f"{source.folder}:v1"]
        command += [f"{host}/web:1", "--work-dir", str(work), "--chunk-size", "4096"]
        assert convert(source, f"{tmp_path}/other:t", work) == 0
        locks = [path.open("r+b") for path in (work / "layers").glob("*/lock")]
        assert len(locks) == 3
        for lock in locks:
            fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                while not _has_open(process.pid, {lock.name for lock in locks}):
                    assert process.poll() is None
                process.send_signal(signal.SIGINT)
                _, said = process.communicate()
            finally:
                process.kill()
        assert (process.returncode, said) == (130, "vhostfs convert: interrupted; started again it goes on\n")
        for lock in locks:
            lock.close()
        assert subprocess.run(command, capture_output=True).returncode == 0
        assert len(inspect(tmp_path / "home", f"docker://{host}/web:1")["Layers"]) == 4


def _has_open(pid: int, names: set[str]) -> bool:
    opened = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(FileNotFoundError):
            opened.add(str(link.readlink()))
    return names <= opened
