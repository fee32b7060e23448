"""The table of cases (posix.h): compiled, run on the host, its lines read, and two runs compared."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.guest.programs import static_programs

HERE = Path(__file__).parent
#: the tables leave out lists that a case does not have, operations arguments that they do not use
FLAGS = ["-D_GNU_SOURCE", "-Wshadow", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
CASES = 2000  # at least; so that a run that ended early does not pass


@dataclass(frozen=True)
class Answer:
    """What a case did: its result (ok, bad, died, hung), the last errno and what the steps answered."""

    result: str
    errno: str
    details: str

    def __str__(self) -> str:
        return f"{self.result} {self.errno} {self.details}"


def build(folder: Path) -> Path:
    """Compile the suite; the program."""
    sources = sorted(p for pattern in ("case_*.c", "op_*.c") for p in HERE.glob(pattern))
    return static_programs([HERE / "main.c", HERE / "script.c", *sources], folder / "posix", *FLAGS)


def parse(text: str) -> dict[str, Answer]:
    """The lines by name of the case. Raises ValueError when a name comes twice."""
    answers: dict[str, Answer] = {}
    for line in text.splitlines():
        name, result, errno, details = line.split(" ", 3)
        if name in answers:
            raise ValueError(f"case {name} came twice")
        answers[name] = Answer(result, errno, details)
    return answers


def run(program: Path, folder: Path) -> dict[str, Answer]:
    """Run all cases in `folder` of the host."""
    done = subprocess.run([program, folder], capture_output=True, text=True, errors="surrogateescape")
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr}")
    return parse(done.stdout)


def wrong(answers: Mapping[str, Answer]) -> list[str]:
    """The cases that answered something else than the table says."""
    return [f"{name} {answer}" for name, answer in answers.items() if answer.result != "ok"]


def differences(expected: Mapping[str, Answer], seen: Mapping[str, Answer]) -> dict[str, str]:
    """The cases that differ, each with both answers."""
    return {
        name: f"{name}\n  host:  {expected.get(name, 'not run')}\n  guest: {seen.get(name, 'not run')}"
        for name in sorted({*expected, *seen})
        if expected.get(name) != seen.get(name)
    }
