"""A real image, the whole way: made by umoci, converted, pushed to a real registry, booted from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rafs.oci.layout import Layout
from tests.fakes.converted import check_manifest, tree_of
from tests.fakes.registries import docker_registry_at
from tests.fakes.skopeo import inspect, skopeo, umoci
from tests.guest import debian
from tests.guest.nydusd import Nydusd
from tests.guest.vm import Guest
from tests.trees import describe, differences

ZSTD = 3
#: Python and a compiler from the image, with what they load; and the files that the layers changed
SCRIPT = r"""
set -e
mkdir -p /share
mount -t virtiofs $TAG /share
root=/share/rafs/one
mount -t tmpfs tmp /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
cp /program.py tmp/program.py
chroot . /usr/bin/python3 -I -B /tmp/program.py
"""
PROGRAM = r"""
import json, os, ssl, sqlite3, subprocess
source = "#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 0; }\n"
open("/tmp/a.c", "w").write(source)
subprocess.run(["/usr/bin/gcc", "-o", "/tmp/a", "/tmp/a.c"], check=True)
said = subprocess.run(["/tmp/a"], capture_output=True, check=True).stdout.decode()
print(json.dumps({
    "said": said, "changed": open("/etc/debian_version").read(),
    "removed": os.path.exists("/usr/share/locale"), "added": os.listdir("/opt/added"),
}))
"""


def make_image(folder: Path) -> tuple[str, Path]:
    """A multi-layer image of Debian packages, at DIR:TAG, and what it shows, as umoci unpacks it."""
    layout, bundle = folder / "layout", folder / "bundle"
    umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:base")
    umoci("insert", "--image", f"{layout}:base", "--tag", "python", debian.python_root(), "/")
    umoci("insert", "--image", f"{layout}:python", "--tag", "tools", debian.tools_root(), "/")
    umoci("unpack", "--image", f"{layout}:tools", bundle)
    root = bundle / "rootfs"
    subprocess.run(["rm", "-r", root / "usr/share/locale", root / "usr/share/doc"], check=True)
    (root / "etc/debian_version").write_text("changed\n")
    (root / "opt/added").mkdir(parents=True)
    (root / "opt/added/file").write_bytes(os.urandom(100_000))
    os.link(root / "opt/added/file", root / "opt/added/link")
    umoci("repack", "--image", f"{layout}:final", bundle)
    shown = folder / "shown"
    umoci("unpack", "--image", f"{layout}:final", shown)
    return f"{layout}:final", shown / "rootfs"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_debian_image_converts_and_boots(guest: Guest, tmp_path: Path) -> None:
    source, shown = make_image(tmp_path)
    expected = describe(shown)
    files = [entry for entry in expected.values() if entry.sha256]
    size = sum(entry.size for name, entry in expected.items() if entry.sha256 and entry.link_of == name)
    assert len(expected) > 10_000 and size > 200_000_000, (len(expected), len(files), size)

    with docker_registry_at(tmp_path / "registry") as registry:
        target = f"{registry.host}/debian/tools:rafs"
        command = [sys.executable, "-m", "vhostfs", "convert", source, target, "--compressor", "zstd"]
        command += ["--work-dir", str(tmp_path / "work")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        print(done.stdout)
        home, name = tmp_path / "home", f"docker://{target}"
        copied = Layout(tmp_path / "copied")
        skopeo(home, "copy", "--src-tls-verify=false", name, f"oci:{copied.folder}:t")
        facts = inspect(home, name)
        assert facts["Digest"] == copied.resolve("t").digest
        boot, blobs = check_manifest(
            lambda digest: copied.blob_path(digest).read_bytes(), facts["Digest"], tmp_path / "got"
        )
        assert len(blobs) == 3
        assert differences(expected, tree_of(boot, blobs, ZSTD))[:20] == []

        cache = tmp_path / "cache"
        cache.mkdir()
        backend = {"scheme": "http", "host": registry.host, "repo": "debian/tools"}
        config = {
            "device": {
                "backend": {"type": "registry", "config": backend},
                "cache": {"type": "blobcache", "config": {"work_dir": str(cache)}},
            },
            "mode": "direct",
            "digest_validate": True,
            "enable_xattr": True,
        }
        with Nydusd(tmp_path, shared=[cache], readable=[boot]) as daemon:
            body = {"fs_type": "rafs", "source": str(boot), "config": json.dumps(config)}
            status, said = daemon.call("POST", "/api/v1/mount?mountpoint=/rafs/one", body)
            assert status == 204, said
            result = daemon.run(guest, SCRIPT, files={"/program.py": PROGRAM.encode()}, timeout_s=600)
        answer = json.loads(result.check().stdout)
        assert answer == {
            "said": "compiled\n",
            "changed": "changed\n",
            "removed": False,
            "added": sorted(answer["added"]),
        }
        assert sorted(answer["added"]) == ["file", "link"]
        fetched = sum(path.stat().st_blocks * 512 for path in cache.rglob("*.blob.data"))
        assert 0 < fetched < size / 2
