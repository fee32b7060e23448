"""Are hits as fast as the fastest peer? vhostfs with a warm cache beside QEMU's C virtiofsd.

The same tree is served by both: by vhostfs as an image, by virtiofsd as a directory. For each workload the
two take turns (A B A B ...), so that whatever else the machine does meets both; a row's ratio is that of the
medians. First with back-end and load generator on one CPU, where no idle CPU has to be woken and the
figures are steadiest; then each on a CPU of its own, as with a guest's vCPU; then wherever the kernel puts
them. Then vhostfs alone with four request queues, which virtiofsd does not have. All replies are checked
while measuring, all data before.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench import backends, loadgen, tree
from bench.place import WORK, BenchError, console, describe_machine, first_line
from tests.guest.backend import Backend, BackendError
from tests.guest.debian import PackageError

WORKLOADS = [
    "lookup:1",
    "lookup:32",
    "lookupdir:1",
    "lookupdir:32",
    "getattr:1",
    "getattr:32",
    "randread4k:1",
    "randread4k:32",
    "seqread128k:1",
    "seqread128k:8",
    "seqread1m:1",
    "seqread1m:8",
    "scatread128k:8",
    "scatread1m:8",
    "readdirplus:1",
    "readdirplus:8",
    "readdirplus4k:1",
    "readdirplus4k:32",
]
#: those that the independent front-end has too
VFSBENCH_WORKLOADS = [
    "lookup",
    "lookupdir",
    "getattr",
    "randread4k",
    "seqread128k",
    "seqread1m",
    "readdirplus",
]


@dataclass(frozen=True)
class Figure:
    """One measurement of one workload."""

    label: str  # workload and depth
    rate: float  # operations a second; entries a second for readdirplus
    mb_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float  # of the back-end, an operation


Measure = Callable[[Backend, str], list[Figure]]
#: label -> what was measured of vhostfs, and of the peer
Rows = dict[str, tuple[list[Figure], list[Figure]]]


def with_loadgen(prefix: Sequence[str], seconds: float, queues: int = 1) -> Measure:
    def measure(backend: Backend, workload: str) -> list[Figure]:
        options = ["-f", "big", "-d", "d", "-s", str(seconds), "-q", str(queues), "-w", workload]
        results = loadgen.measure(backend.socket, *options, "-p", str(backend.process.pid), prefix=prefix)
        return [
            Figure(
                f"{r.workload} {r.queue_depth}",
                r.entries_per_s or r.ops_per_s,
                r.mb_per_s,
                r.p50_us,
                r.p99_us,
                r.cpu_us_per_op,
            )
            for r in results
        ]

    return measure


_VFSBENCH_LINE = re.compile(
    r"(?P<name>\w+) +qd +(?P<depth>\d+) +(?P<rate>\d+) (?:op|entries)/s(?: +(?P<mb>\d+) MB/s)?"
    r"(?: +p50 +(?P<p50>[\d.]+) us +p99 +(?P<p99>[\d.]+) us)? +(?P<cpu>[\d.]+) cpu-us"
)


def with_vfsbench(source: Path, prefix: Sequence[str], seconds: float, queues: int = 1) -> Measure:
    """The same by an independent front-end, a single C file."""
    program = loadgen.compile_c(source.stem, [source], ["-O2", "-w"])

    def measure(backend: Backend, workload: str) -> list[Figure]:
        command = [*prefix, str(program), str(backend.socket), "-p", str(backend.process.pid)]
        command += ["-f", "big", "-d", "d"]
        command += ["-s", str(seconds), "-q", str(queues), "-w", workload]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        found = [line.groupdict() for line in map(_VFSBENCH_LINE.match, done.stdout.splitlines()) if line]
        if done.returncode or not found:
            raise BenchError(
                f"{source.name} -w {workload} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return [
            Figure(
                f"{f['name']} {f['depth']}",
                float(f["rate"]),
                *(float(f[k] or 0) for k in ("mb", "p50", "p99", "cpu")),
            )
            for f in found
        ]

    return measure


def take_turns(
    workloads: Sequence[str],
    rounds: int,
    ours: Backend,
    start_peer: Callable[[], Backend] | None,
    measure: Measure,
) -> Rows:
    """Measure each workload `rounds` times with each."""
    rows: Rows = {}
    for workload in workloads:
        for _ in range(rounds):
            for figure in measure(ours, workload):
                rows.setdefault(figure.label, ([], []))[0].append(figure)
            if start_peer:
                with start_peer() as peer:
                    for figure in measure(peer, workload):
                        rows[figure.label][1].append(figure)
    return rows


def median(figures: Sequence[Figure], name: str) -> float:
    values: list[float] = [getattr(figure, name) for figure in figures]
    return statistics.median(values)


def cells(figures: Sequence[Figure]) -> list[str]:
    mb = median(figures, "mb_per_s")
    rate = f"{median(figures, 'rate'):,.0f}" + (f" ({mb:,.0f} MB/s)" if mb else "")
    return [
        rate,
        f"{median(figures, 'p50_us'):.1f} / {median(figures, 'p99_us'):.1f}",
        f"{median(figures, 'cpu_us'):.2f}",
    ]


def show(out: Console, title: str, rows: Rows) -> list[str]:
    """Print the table; returns the rows that are slower than the peer."""
    has_peer = any(peer for _, peer in rows.values())
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("workload, depth")
    for name in ["vhostfs", "virtiofsd"] if has_peer else ["vhostfs"]:
        table.add_column(f"{name} op/s", justify="right")
        table.add_column("p50 / p99 us", justify="right")
        table.add_column("cpu us/op", justify="right")
    if has_peer:
        table.add_column("ratio", justify="right")
        table.add_column("min .. max", justify="right")
    slower = []
    for label, (ours, peer) in rows.items():
        if not peer:
            table.add_row(label, *cells(ours))
            continue
        ratio = median(ours, "rate") / median(peer, "rate")
        pairs = [a.rate / b.rate for a, b in zip(ours, peer, strict=True)]
        style = "red" if ratio < 1 else "green"
        spread = f"{min(pairs):.2f} .. {max(pairs):.2f}"
        table.add_row(label, *cells(ours), *cells(peer), f"[{style}]{ratio:.2f}[/]", spread)
        if ratio < 1:
            slower.append(f"{label} ({ratio:.2f})")
    out.print(table)
    return slower


def verify(backend: Backend, share: Path, queues: int) -> None:
    """Warm the cache and compare every byte, attribute and reply, on every queue."""
    options = ["-f", "big", "-d", "d", "-v", str(share), "-q", str(queues), "-s", "0.2"]
    loadgen.run(backend.socket, *options, "-w", ",".join(WORKLOADS))


@dataclass(frozen=True)
class Form:
    """Where the two ends run."""

    title: str
    backend: Sequence[str] = ()  # prefixes that pin
    front_end: Sequence[str] = ()
    queues: int = 1  # with more there is no peer


def forms() -> dict[str, Form]:
    cpus = sorted(os.sched_getaffinity(0))
    first, last = backends.on_cpu(cpus[0]), backends.on_cpu(cpus[-1])
    return {
        "one-cpu": Form("both ends on one CPU, 1 request queue", last, last),
        "two-cpus": Form("each end on its own CPU, 1 request queue", last, first),
        "unpinned": Form("not pinned, 1 request queue"),
        "queues": Form("vhostfs with 4 request queues (depth on each), not pinned", queues=4),
    }


def compare(form: Form, workloads: Sequence[str], arguments: argparse.Namespace) -> Rows:
    share, image = tree.tree(arguments.size), tree.image(arguments.size)
    if arguments.vfsbench:
        measure = with_vfsbench(arguments.vfsbench, form.front_end, arguments.seconds, form.queues)
    else:
        measure = with_loadgen(form.front_end, arguments.seconds, form.queues)

    def start_peer() -> Backend:
        return backends.virtiofsd(share, WORK, prefix=form.backend)

    cache = WORK / "cache-hits"
    shutil.rmtree(cache, ignore_errors=True)
    with backends.vhostfs(image, WORK, cache_dir=cache, queues=form.queues, prefix=form.backend) as ours:
        verify(ours, share, form.queues)
        return take_turns(
            workloads, arguments.rounds, ours, start_peer if form.queues == 1 else None, measure
        )


def main(argv: Sequence[str] | None = None) -> int:
    every = forms()
    parser = argparse.ArgumentParser(prog="python -m bench.hits", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of the file that is read (256)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each back-end, a row (3)")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement (0.4)")
    parser.add_argument("--only", metavar="W,...", help="only these workloads, with their depth: lookup:1")
    parser.add_argument("--form", choices=every, action="append", help="only this; repeatable")
    parser.add_argument("--vfsbench", type=Path, metavar="FILE", help="measure with this C front-end instead")
    arguments = parser.parse_args(argv)
    workloads = VFSBENCH_WORKLOADS if arguments.vfsbench else WORKLOADS
    if arguments.only:
        workloads = arguments.only.split(",")
    out = console()
    slower: dict[str, list[str]] = {}
    try:
        out.print(f"[bold]Hits[/] on {describe_machine()}")
        out.print(f"peer: {first_line(str(backends.VIRTIOFSD), '--version')}")
        out.print(
            f"{arguments.size} MiB file, {tree.SMALL_FILES} small ones; {arguments.rounds} x "
            f"{arguments.seconds} s a row, taking turns; "
            f"front-end {arguments.vfsbench.name if arguments.vfsbench else 'bench/c'}"
        )
        for name in arguments.form or every:
            rows = compare(every[name], workloads, arguments)
            slower[name] = show(out, every[name].title, rows)
    except (BenchError, BackendError, PackageError) as error:
        print(error, file=sys.stderr)
        return 1
    for name, labels in slower.items():
        if every[name].queues == 1:
            verdict = (
                f"slower than virtiofsd: {', '.join(labels)}" if labels else "no row is slower than virtiofsd"
            )
            out.print(f"{name}: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
