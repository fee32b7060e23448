"""A real object store with an S3 interface, a process on this machine: Debian's OpenStack Swift.

    with s3_server({"bucket": {"key": content}}) as server:
        ...server.host, server.access_key, server.secret_key

Keys and signatures are checked. Buckets are the first part of the path, or of a host name below DOMAIN.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.guest.debian import swift_root
from tests.guest.programs import environment

REGION = "eu-central-1"
DOMAIN = "s3.oss-eu-central-1.aliyuncs.com"


@dataclass(frozen=True)
class S3Server:
    """`process` may be stopped and killed by a test."""

    port: int
    process: subprocess.Popen[str]
    access_key: str = "test:tester"
    secret_key: str = "testing"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


def section_of(server: S3Server, **changes: Any) -> dict[str, Any]:
    """The configuration of a back-end that reads its bucket "bucket"."""
    section = {"scheme": "http", "endpoint": server.host, "region": REGION, "bucket_name": "bucket"}
    keys = {"access_key_id": server.access_key, "access_key_secret": server.secret_key}
    return {**section, **keys, **changes}


@contextmanager
def s3_server(buckets: Mapping[str, Mapping[str, bytes]]) -> Iterator[S3Server]:
    root = swift_root()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for bucket, objects in buckets.items():
            (folder / "buckets" / bucket).mkdir(parents=True)
            for key, content in objects.items():
                path = folder / "buckets" / bucket / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        libraries = [root / "lib/x86_64-linux-gnu", root / "usr/lib/x86_64-linux-gnu"]
        loader = next(path for each in libraries for path in each.glob("ld-linux-x86-64.so.2"))
        python = next(iter(sorted((root / "usr/bin").glob("python3.[0-9]*"))))
        command = [str(loader), "--library-path", ":".join(map(str, libraries)), str(python)]
        command += [str(Path(__file__).with_name("swift_store.py")), name, REGION, DOMAIN]
        own = {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(root / "usr/lib/python3/dist-packages")}
        log = folder / "log"
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, env=environment() | own, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                assert said, log.read_text()
                yield S3Server(json.loads(said), process)
            finally:
                process.kill()
