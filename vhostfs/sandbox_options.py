"""The sandbox on a command line: what may be switched off, and which paths stay besides. Light to import."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

#: what vhostfs/sandbox.py explains
PARTS = ("mounts", "capabilities", "no-new-privs", "landlock", "seccomp")


class SandboxOptions(NamedTuple):
    """`off`: parts not wanted. `readable`, `writable`: absolute paths that stay besides."""

    off: frozenset[str] = frozenset()
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> SandboxOptions:
        """What `add_arguments` has made of a command line."""
        return cls(
            off=frozenset(part for parts in arguments.no_sandbox for part in parts),
            readable=tuple(arguments.sandbox_readable),
            writable=tuple(arguments.sandbox_writable),
        )

    def words(self) -> list[str]:
        """`off` on a command line, for a process of ours."""
        return [f"--no-sandbox={','.join(sorted(self.off))}"] if self.off else []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three options; `SandboxOptions.of` reads what is given."""
    group = parser.add_argument_group(
        "sandbox",
        "All parts are on; one that this machine cannot give is logged. "
        f"The parts: {', '.join(PARTS)}; the last two need no-new-privs.",
    )
    group.add_argument(
        "--no-sandbox",
        metavar="PART",
        type=_parts,
        action="append",
        default=[],
        help="go without a part of the sandbox, or several (commas), or all; repeatable",
    )
    group.add_argument(
        "--sandbox-readable",
        metavar="PATH",
        type=_absolute,
        action="append",
        default=[],
        help="a file or directory that may be read besides; repeatable",
    )
    group.add_argument(
        "--sandbox-writable",
        metavar="PATH",
        type=_absolute,
        action="append",
        default=[],
        help="a directory that may be changed besides; repeatable",
    )


def parts_named(text: str) -> frozenset[str]:
    """Parse a part, several with commas between, or `all`. Raises ValueError."""
    names = text.split(",")
    chosen = frozenset(part for name in names for part in (PARTS if name == "all" else [name]))
    unknown = [name for name in names if name not in (*PARTS, "all")]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no part of the sandbox; there are {', '.join(PARTS)}, and all")
    return chosen


def check_parts(off: Iterable[str]) -> None:
    """Raise ValueError when parts are switched off that others need."""
    depending = [part for part in ("landlock", "seccomp") if part not in off]
    if "no-new-privs" in off and depending:
        raise ValueError(
            f"{' and '.join(depending)} cannot be had without no-new-privs; "
            f"add --no-sandbox={','.join(depending)}"
        )


def _parts(text: str) -> frozenset[str]:
    try:
        return parts_named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _absolute(text: str) -> Path:
    return Path.cwd() / text
