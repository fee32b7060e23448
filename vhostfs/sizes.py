"""Sizes as people write and read them."""

from __future__ import annotations

import argparse
import re

_SIZE = re.compile(r"(\d+)\s*(?:([kmgt])(?:ib)?|b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size_of(text: str) -> int:
    """Return bytes for "4096", "64KiB", "64k", "1MiB", "1M"; else raise ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write bytes, or a number with KiB, MiB, GiB or TiB")
    return int(match.group(1)) * _UNITS[(match.group(2) or "").lower()]


def parse_size(text: str) -> int:
    """`size_of` for argparse. Raises argparse.ArgumentTypeError."""
    try:
        return size_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def format_size(size: float) -> str:
    """Return `size` bytes for a person: "5 B", "1.5 MiB"."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"
