"""Programs: the host's that the harness runs, and the static ones that it compiles for the guest."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


class ProgramError(Exception):
    """A program is missing or does not compile."""


def program(name: str) -> Path:
    path = shutil.which(name)
    if not path:
        raise ProgramError(f"no {name} on this machine: run make setup")
    return Path(path)


def environment() -> dict[str, str]:
    """This environment without a preloaded sanitizer: that is meant for our own extension."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def static_program(source: Path, folder: Path) -> Path:
    """Compile the one C file `source` into `folder`, static, so that it runs in the guest."""
    return static_programs([source], folder / source.stem)


def static_programs(sources: Sequence[Path], target: Path, *flags: str) -> Path:
    """Compile C files into the one static program `target`. Raises ProgramError."""
    command = ["gcc", "-std=gnu11", "-O2", "-static", "-Wall", "-Wextra", "-Werror", *flags]
    command += ["-o", str(target), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise ProgramError(
            f"gcc cannot compile {target.name} (make setup installs what it needs):\n{done.stderr}"
        )
    return target
