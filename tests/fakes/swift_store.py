"""All servers of OpenStack Swift in one process: `s3_server.py` runs this with Debian's Python.

    swift_store.py FOLDER REGION DOMAIN

FOLDER/buckets has folders with what the buckets are to have; all else that is written goes to FOLDER too. The
port of the S3 interface is printed when it serves.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import eventlet

eventlet.monkey_patch()

from eventlet import wsgi  # noqa: E402
from swift.common import utils  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.swob import Request  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402

STORES = ("account", "container", "object")
ACCOUNT = "/v1/AUTH_test"
PROXY = """
[pipeline:main]
pipeline = catch_errors healthcheck cache s3api tempauth proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = {region}
storage_domain = {domain}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
"""
PROXY_APP = "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"


def main(folder: Path, region: str, domain: str) -> None:
    hashes = folder / "swift.conf"
    hashes.write_text("[swift-hash]\nswift_hash_path_suffix = a\nswift_hash_path_prefix = b\n")
    utils.SWIFT_CONF_FILE = str(hashes)
    utils.validate_hash_conf()
    (folder / "devices" / "disk").mkdir(parents=True)

    def load(name: str, text: str) -> Any:
        common = f"[DEFAULT]\nswift_dir = {folder}\ndevices = {folder}/devices\nmount_check = false\n"
        path = folder / f"{name}.conf"
        path.write_text(f"{common}fallocate_reserve = 0\nlog_level = ERROR\n{text}")
        return loadapp(str(path))

    listening = {name: eventlet.listen(("127.0.0.1", 0)) for name in STORES}
    for name, sock in listening.items():
        make_ring(folder / f"{name}.ring.gz", sock.getsockname()[1])
    for name, sock in listening.items():
        app = load(name, f"[pipeline:main]\npipeline = server\n[app:server]\nuse = egg:swift#{name}\n")
        eventlet.spawn(wsgi.server, sock, app, log_output=False)
    fill(load("fill", f"[pipeline:main]\npipeline = proxy-server\n{PROXY_APP}"), folder / "buckets")
    proxy = load("proxy", PROXY.format(region=region, domain=domain) + PROXY_APP)
    front = eventlet.listen(("127.0.0.1", 0))
    print(front.getsockname()[1], flush=True)
    wsgi.server(front, proxy, log_output=False)


def make_ring(path: Path, port: int) -> None:
    """One server with one disk has it all."""
    builder = RingBuilder(1, 1, 0)
    device = {"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "disk", "meta": ""}
    address = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    builder.add_dev(device | address)
    builder.rebalance()
    builder.get_ring().save(str(path))


def fill(store: Any, buckets: Path) -> None:
    """By Swift's own interface, which asks nobody here who he is."""
    for bucket in buckets.iterdir():
        put(store, f"{ACCOUNT}/{bucket.name}", b"")
        for path in bucket.rglob("*"):
            if path.is_file():
                put(store, f"{ACCOUNT}/{bucket.name}/{path.relative_to(bucket)}", path.read_bytes())


def put(store: Any, path: str, content: bytes) -> None:
    response = Request.blank(path, method="PUT", body=content).get_response(store)
    if response.status_int not in (201, 202):
        raise SystemExit(f"PUT {path}: {response.status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
