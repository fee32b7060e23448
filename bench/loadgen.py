"""The load generator (bench/c), compiled when needed, run, and its lines read.

It is a vhost-user front-end of its own that drives a back-end as a Linux guest does; nothing of vhostfs is
in it. See bench/c/workload.h for what it does and checks.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from bench.place import CACHE, BenchError

SOURCES = Path(__file__).resolve().parent / "c"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wshadow"]


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one pattern did: the fields that a pattern beside another has too."""

    workload: str
    queue_depth: int  # in flight on each queue
    operations: int
    ops_per_s: float
    mb_per_s: float
    entries_per_s: float
    p50_us: float
    p99_us: float
    worst_us: float
    bad: int
    first_error: int

    @classmethod
    def parse(cls, line: dict[str, Any]) -> Self:
        return cls(**{field.name: line[field.name] for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Result(Load):
    """A line of the load generator."""

    request_queues: int
    seconds: float
    cpu_us_per_op: float  # of the back-end
    kicks_per_op: float


def build() -> Path:
    """Compile bench/c into the cache unless that very source is there. Raises BenchError."""
    return compile_c("loadgen", sorted(SOURCES.glob("*.[ch]")), FLAGS)


def compile_c(name: str, sources: Sequence[Path], flags: Sequence[str]) -> Path:
    """Compile C files (headers among them count as source) into the cache unless they are there compiled."""
    digest = hashlib.sha256(" ".join(flags).encode() + b"".join(path.read_bytes() for path in sources))
    program = CACHE / f"{name}-{digest.hexdigest()[:16]}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = program.with_name(f"{program.name}.new")
        files = [path for path in sources if path.suffix == ".c"]
        done = subprocess.run(["gcc", *flags, "-o", fresh, *files], capture_output=True, text=True)
        if done.returncode:
            raise BenchError(f"gcc cannot compile {name}:\n{done.stderr}")
        fresh.rename(program)
    return program


def run(socket: Path, *options: str | Path, prefix: Sequence[str] = (), timeout_s: float = 300) -> list[str]:
    """Run the load generator; its lines. Raises BenchError when it fails or a reply was wrong."""
    command = [*prefix, str(build()), str(socket), *(str(option) for option in options)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(command)} did not end within {timeout_s:.0f} s") from None
    if done.returncode:
        raise BenchError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.splitlines()


def parse_result(line: str) -> tuple[Result, Load | None]:
    """A line about a workload, and the first of what ran beside it."""
    result, beside = parse_results(line)
    return result, beside[0] if beside else None


def parse_results(line: str) -> tuple[Result, list[Load]]:
    """A line about a workload, and all that ran beside it."""
    values = json.loads(line)
    beside = values.pop("backgrounds", [])
    return Result.parse(values), [Load.parse(one) for one in beside]


def measure(socket: Path, *options: str | Path, prefix: Sequence[str] = ()) -> list[Result]:
    return [parse_result(line)[0] for line in run(socket, *options, prefix=prefix)]
