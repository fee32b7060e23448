"""How fast is an image fetched from a registry on this machine, beside curl and zstd?

Debian's docker-registry serves the image's blob over loopback, from the page cache. The peer is
`curl | zstd -d` of the blob's data: it makes one request, checks nothing and keeps nothing. vhostfs asks for
ranges, decompresses, verifies every chunk and writes it to its cache: all of the image in one go, all of it
ahead of need, and the one file in order by a guest with eight reads of 128 KiB in flight. Rounds take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich import box
from rich.table import Table

from bench import backends, loadgen, process, tree
from bench.place import WORK, BenchError, console, describe_machine
from native.dataplane import ChunkStore
from rafs.backend.config import Registry
from rafs.backend.http import HttpPool
from rafs.backend.registry import RegistryBackend
from rafs.blob_record import BlobRecord
from rafs.blob_store import BlobStore
from rafs.cache_dir import CacheDir
from rafs.fetch import FetchResources
from rafs.image import Image as Bootstrap
from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.plan import make_plan
from rafs.upcalls import Upcalls
from tests.fakes.registries import DockerRegistry, docker_registry_at
from tests.guest.backend import BackendError, Image
from tests.guest.debian import PackageError
from tests.guest.nydusd import Nydusd

FILE = "mixed"
REPOSITORY = "bench/image"


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float = 0.0
    peak_rss: int = 0
    requests: int = 0


def make_image() -> Image:
    """Of the bytes of real programs alone: zstd gains on every chunk, so frame follows frame."""
    root = WORK / "tree-mixed"
    root.mkdir(parents=True, exist_ok=True)
    (root / FILE).unlink(missing_ok=True)
    os.link(tree.tree(256) / FILE, root / FILE)
    folder = WORK / "image-mixed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return Image(root, folder, "--compressor", "zstd")


def data_end(image: Image) -> int:
    """Where the chunks of the blob end."""
    bootstrap = Bootstrap(image.bootstrap)
    try:
        records = map(bootstrap.chunk_record, range(bootstrap.chunk_record_count))
        return max(int(record.compressed_offset + record.compressed_size) for record in records)
    finally:
        bootstrap.close()


def curl(url: str, end: int, *, decode: bool) -> Cost:
    """Fetch the blob's data in one request, and decode it or drop it."""
    pipeline: list[list[str | Path]] = [["curl", "-s", "-S", "-f", "-r", f"0-{end - 1}", url]]
    spent = process.run([*pipeline, ["zstd", "-d", "-c"]] if decode else pipeline)
    return Cost(spent.wall_s, spent.cpu_s)


def fetch(how: str, image: Image, registry: DockerRegistry) -> Cost:
    """Fetch the whole image in a process of its own."""
    cache = WORK / "cache-registry"
    shutil.rmtree(cache, ignore_errors=True)
    command: list[str | Path] = [sys.executable, "-m", "bench.registry", "--fetch", how]
    command += [image.bootstrap, registry.host, cache]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"fetching the image failed:\n{done.stderr}")
    shutil.rmtree(cache)
    return Cost(**json.loads(done.stdout))


async def fetch_here(how: str, bootstrap: Path, host: str, cache: Path) -> None:
    """What `fetch` runs; prints the Cost as JSON."""
    image = Bootstrap(bootstrap)
    chunks, pool = ChunkStore(), HttpPool()
    upcalls, resources = Upcalls(chunks), FetchResources()
    upcalls.start()
    backend = RegistryBackend(pool, Registry(scheme="http", host=host, repo=REPOSITORY))
    cache_dir = CacheDir(cache)
    cache_dir.join()
    store = BlobStore(cache_dir, backend, upcalls, resources)
    store.start()
    blob = await store.open_blob(BlobRecord.parse(image.blob_record(0)))
    started, cpu = time.monotonic(), time.process_time()
    if how == "fill":
        await store.fill(blob)
    else:
        options = PrefetchOptions(everything=True)
        await store.prefetch([blob], make_plan(image, options), options).wait()
    assert blob.native.ready_count() == blob.native.chunk_count
    cost = Cost(
        time.monotonic() - started,
        time.process_time() - cpu,
        process.peak_rss(os.getpid()),
        store.statistics()["requests"],
    )
    print(json.dumps(cost.__dict__))
    upcalls.stop()
    await store.close()
    resources.close()
    await backend.close()
    await pool.close()
    cache_dir.leave()
    image.close()
    chunks.close()


def guest(image: Image, registry: DockerRegistry) -> Cost:
    """Read FILE once through a daemon that Kata could have started; it and its agent are counted."""
    cache = WORK / "cache-registry"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    config = {
        "device": {
            "backend": {
                "type": "registry",
                "config": {"scheme": "http", "host": registry.host, "repo": REPOSITORY},
            },
            "cache": {"type": "blobcache", "config": {"work_dir": str(cache)}},
        },
        "mode": "direct",
    }
    body = {"fs_type": "rafs", "source": str(image.bootstrap), "config": json.dumps(config)}
    with backends.agent(cache) as agent, Nydusd(WORK, shared=[cache], readable=[image.bootstrap]) as daemon:
        status, said = daemon.call("POST", "/api/v1/mount?mountpoint=/image", body)
        if status != 204:
            raise BenchError(f"the mount was answered {status}: {said.decode()}")
        pids = [daemon.process.pid, agent]
        before = sum(map(process.cpu_s, pids))
        options = ["-f", f"image/{FILE}", "-d", "image", "-1", "-w", "seqread128k:8", "-p", str(pids[0])]
        (result,) = loadgen.measure(daemon.socket, *options)
        cpu_s = sum(map(process.cpu_s, pids)) - before
        cost = Cost(result.seconds, cpu_s, sum(map(process.peak_rss, pids)))
    shutil.rmtree(cache)
    return cost


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.registry", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements, a row (5)")
    parser.add_argument("--fetch", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.fetch:
        how, bootstrap, host, cache = arguments.fetch
        uvloop.run(fetch_here(how, Path(bootstrap), host, Path(cache)))
        return 0
    out = console()
    costs: dict[str, list[Cost]] = {}
    try:
        if not all(map(shutil.which, ("curl", "zstd"))):
            raise BenchError("no curl or no zstd on this machine: run make setup")
        out.print(f"[bold]Cold from a registry[/] on {describe_machine()}")
        image = make_image()
        (blob,) = image.blob_dir.iterdir()
        size, end = (image.source / FILE).stat().st_size, data_end(image)
        folder = WORK / "docker-registry"
        shutil.rmtree(folder, ignore_errors=True)
        with docker_registry_at(folder) as registry:
            digest = registry.push_blob(REPOSITORY, blob.read_bytes())
            url = f"{registry.url}/v2/{REPOSITORY}/blobs/{digest}"
            for _ in range(arguments.rounds):
                for name, cost in (
                    ("curl", curl(url, end, decode=False)),
                    ("curl | zstd -d", curl(url, end, decode=True)),
                    ("vhostfs, whole image", fetch("fill", image, registry)),
                    ("vhostfs, whole image ahead", fetch("prefetch", image, registry)),
                    ("vhostfs, guest reads in order", guest(image, registry)),
                ):
                    costs.setdefault(name, []).append(cost)
        shutil.rmtree(folder)
    except (BenchError, BackendError, PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    out.print(f"{size / 1e6:.0f} MB in a blob of {end / 1e6:.0f} MB, {arguments.rounds} rounds; medians")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for column in ("MB/s", "speed / (curl | zstd)", "cpu s", "peak MB", "requests"):
        table.add_column(column, justify="right")
    peer = statistics.median(cost.wall_s for cost in costs["curl | zstd -d"])
    for name, of in costs.items():
        wall = statistics.median(cost.wall_s for cost in of)
        peak, requests = max(cost.peak_rss for cost in of), max(cost.requests for cost in of)
        cells = [f"{size / wall / 1e6:,.0f}", f"{peer / wall:.2f}"]
        cells += [f"{statistics.median(cost.cpu_s for cost in of):.2f}"]
        cells += [f"{peak / 1e6:,.0f}" if peak else "", str(requests or "")]
        table.add_row(name, *cells)
    out.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
