"""An S3 server of others in a process of its own: moto's, which checks keys and signatures.

    with s3_server({"bucket": {"key": content}}) as server:
        ...server.port, server.access_key, server.secret_key

Run as a program it is that process: it fills the buckets from a folder of folders, says where it listens, and
serves until its standard input ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

REPO = Path(__file__).resolve().parents[2]
REGION = "eu-central-1"


@dataclass(frozen=True)
class S3Server:
    """`process` may be stopped and killed by a test."""

    port: int
    access_key: str
    secret_key: str
    process: subprocess.Popen[str]

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
    with tempfile.TemporaryDirectory() as folder:
        for bucket, objects in buckets.items():
            (Path(folder) / bucket).mkdir()
            for key, content in objects.items():
                path = Path(folder) / bucket / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.s3_server", folder],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            yield S3Server(said["port"], said["access_key"], said["secret_key"], process)
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _serve(folder: Path) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    url = f"http://127.0.0.1:{port}"
    session = boto3.Session("not", "checked", region_name=REGION)
    iam = session.client("iam", endpoint_url=url)
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    allowed = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    s3 = session.client("s3", endpoint_url=url)
    for bucket in folder.iterdir():
        s3.create_bucket(Bucket=bucket.name, CreateBucketConfiguration={"LocationConstraint": REGION})
        for path in bucket.rglob("*"):
            if path.is_file():
                s3.put_object(Bucket=bucket.name, Key=str(path.relative_to(bucket)), Body=path.read_bytes())
    # from now on keys and signatures are checked
    request = Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST")
    with urlopen(request) as answer:
        assert answer.status == 200
    said = {"port": port, "access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"]}
    print(json.dumps(said), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
