"""Is a shared directory as fast as with the fastest peer? Beside QEMU's C virtiofsd and the one in Rust.

The same directory is shared by all three, with the defaults of each; vhostfs-nydusd runs as Kata starts it,
in its sandbox. For each workload they take turns (A B C A B C ...), so that whatever else the machine does
meets all; a ratio is that of the medians. First with back-end and load generator on one CPU, where no idle
CPU has to be woken and the figures are steadiest; then each on a CPU of its own, as with a guest's vCPU; then
wherever the kernel puts them. Replies are checked.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench import backends, hits, loadgen, tree
from bench.hits import Figure, median
from bench.place import WORK, BenchError, console, describe_machine, first_line
from tests.guest.backend import Backend, BackendError
from tests.guest.debian import PackageError

#: the rows of bench/hits.py, and those that change something; these say which file
CHANGES = ["write4k:1", "write4k:32", "write128k:1", "write128k:8", "write1m:1", "write1m:8"]
CREATES = ["createunlink:1", "createunlink:8", "createunlink:32"]
MOUNT = "containers"


@dataclass
class Server:
    """A back-end, where it has the share, and what was measured of it by row."""

    name: str
    root: str  # of the share in the device, with a slash at its end
    start: Callable[[Sequence[str]], AbstractContextManager[Backend]]
    rows: dict[str, list[Figure]] = field(default_factory=dict)

    def measure(self, backend: Backend, workload: str, prefix: Sequence[str], seconds: float) -> None:
        job = f"{workload}:{self.root}scratch" if workload in CHANGES else workload
        options = ["-f", f"{self.root}big", "-d", f"{self.root}d", "-s", str(seconds)]
        options += ["-w", job, "-p", str(backend.process.pid)]
        for r in loadgen.measure(backend.socket, *options, prefix=prefix):
            rate = r.entries_per_s or r.ops_per_s
            figure = Figure(
                f"{r.workload} {r.queue_depth}", rate, r.mb_per_s, r.p50_us, r.p99_us, r.cpu_us_per_op
            )
            self.rows.setdefault(figure.label, []).append(figure)


def make_share(size_mib: int) -> Path:
    """The generated tree, with a file to write into. Made anew: an earlier run may have left things."""
    share = WORK / f"share-{size_mib}"
    shutil.rmtree(share, ignore_errors=True)
    source = tree.tree(size_mib)
    shutil.copytree(source / "d", share / "d")
    os.link(source / "big", share / "big")
    shutil.copyfile(source / "big", share / "scratch")
    return share


def servers(share: Path) -> list[Server]:
    def ours(prefix: Sequence[str]) -> AbstractContextManager[Backend]:
        return backends.nydusd(WORK, {f"/{MOUNT}": share}, {}, prefix=prefix)

    return [
        Server("vhostfs", f"{MOUNT}/", ours),
        Server("C virtiofsd", "", lambda prefix: backends.virtiofsd(share, WORK, prefix=prefix)),
        Server("Rust virtiofsd", "", lambda prefix: backends.rust_virtiofsd(share, WORK, prefix=prefix)),
    ]


def verify(server: Server, share: Path) -> None:
    """Compare every byte, attribute and reply with the directory."""
    local = WORK / "verify"
    local.mkdir(exist_ok=True)
    (local / MOUNT).unlink(missing_ok=True)
    (local / MOUNT).symlink_to(share)
    with server.start([]) as backend:
        files = ["-f", f"{server.root}big", "-d", f"{server.root}d"]
        loadgen.run(backend.socket, *files, "-v", local, "-s", "0.2", "-w", ",".join(hits.WORKLOADS))


def take_turns(
    measured: list[Server], workloads: Sequence[str], rounds: int, form: hits.Form, seconds: float
) -> None:
    """Each workload `rounds` times with each. The first server stays; the peers end with their front-end."""
    first, *peers = measured
    with first.start(form.backend) as daemon:
        for workload in workloads:
            for _ in range(rounds):
                first.measure(daemon, workload, form.front_end, seconds)
                for peer in peers:
                    with peer.start(form.backend) as backend:
                        peer.measure(backend, workload, form.front_end, seconds)


def cells(figures: Sequence[Figure]) -> list[str]:
    latency = f"{median(figures, 'p50_us'):,.0f} / {median(figures, 'p99_us'):,.0f}"
    return [f"{median(figures, 'rate'):,.0f}", latency, f"{median(figures, 'cpu_us'):.1f}"]


def show(out: Console, title: str, measured: list[Server]) -> list[str]:
    """Print the table; returns the rows that are slower than a peer, with the ratios to both."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("workload, depth", no_wrap=True)
    for server in measured:
        for name in (f"{server.name}\nop/s", "p50 / p99\nus", "cpu\nus/op"):
            table.add_column(name, justify="right", no_wrap=True)
    for peer in measured[1:]:
        table.add_column(f"to\n{peer.name.split()[0]}", justify="right", no_wrap=True)
    slower = []
    ours, *peers = measured
    for label, figures in ours.rows.items():
        ratios = [median(figures, "rate") / median(peer.rows[label], "rate") for peer in peers]
        styled = [f"[{'red' if ratio < 1 else 'green'}]{ratio:.2f}[/]" for ratio in ratios]
        table.add_row(label, *(cell for server in measured for cell in cells(server.rows[label])), *styled)
        if min(ratios) < 1:
            slower.append(f"{label} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    out.print(table)
    return slower


def main(argv: Sequence[str] | None = None) -> int:
    every = forms()
    parser = argparse.ArgumentParser(prog="python -m bench.passthrough", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of the file that is read (256)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each back-end, a row (3)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement (0.5)")
    parser.add_argument("--only", metavar="W:D,...", help="only these workloads")
    parser.add_argument("--form", choices=every, action="append", help="only this; repeatable")
    arguments = parser.parse_args(argv)
    out = console()
    try:
        run(out, {name: every[name] for name in arguments.form or every}, arguments)
    except (BenchError, BackendError, PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def forms() -> dict[str, hits.Form]:
    """Those of bench/hits.py in which a peer can be measured: one request queue."""
    return {name: form for name, form in hits.forms().items() if form.queues == 1}


def run(out: Console, chosen: dict[str, hits.Form], arguments: argparse.Namespace) -> None:
    share = make_share(arguments.size)
    peers = [first_line(str(backends.VIRTIOFSD), "--version"), "virtiofsd of Debian 13, in Rust"]
    out.print(f"[bold]A shared directory[/] on {describe_machine()}\npeers: {'; '.join(peers)}")
    out.print(
        f"{arguments.size} MiB file, {tree.SMALL_FILES} small ones; "
        f"{arguments.rounds} x {arguments.seconds} s a row, taking turns; one request queue"
    )
    workloads = arguments.only.split(",") if arguments.only else [*hits.WORKLOADS, *CHANGES, *CREATES]
    verify(servers(share)[0], share)
    slower: dict[str, list[str]] = {}
    for name, form in chosen.items():
        measured = servers(share)
        take_turns(measured, workloads, arguments.rounds, form, arguments.seconds)
        slower[name] = show(out, form.title, measured)
    for name, labels in slower.items():
        out.print(f"{name}: slower than a peer (ratio to C, to Rust): {', '.join(labels) or 'no row'}")


if __name__ == "__main__":
    sys.exit(main())
