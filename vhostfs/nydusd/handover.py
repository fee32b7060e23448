"""What a FUSE daemon hands to its successor, as bytes: the session's terms, and how its node ids are made.

A successor that makes the same pseudo directories in the same order, and mounts by the same indexes, answers
every node id that the kernel remembers as its predecessor did: images do not change, and nothing is counted.
The bytes hold configurations and so credentials; the supervisor keeps them in memory.
"""

from __future__ import annotations

import msgspec

from native.dataplane import SessionTerms

FORMAT = "vhostfs-handover-1"


class HandoverError(Exception):
    """The bytes are not a state of ours."""


class MountState(msgspec.Struct, frozen=True, kw_only=True):
    """A mount request, where it is mounted, and the index of its mount (0: the root)."""

    mountpoint: str
    index: int
    fs_type: str
    source: str
    config: str = ""
    prefetch_files: tuple[str, ...] = ()
    trace: str = ""
    settings: dict[str, str] = {}


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """`directories`: pseudo ones in the order of their making. `is_shared`: may have host directories."""

    terms: SessionTerms
    is_shared: bool
    directories: list[str]
    mounts: list[MountState]
    format: str = FORMAT


def encode(handover: Handover) -> bytes:
    return msgspec.json.encode(handover)


def decode(state: bytes) -> Handover:
    """Raises HandoverError."""
    try:
        handover = msgspec.json.decode(state, type=Handover)
    except msgspec.DecodeError as error:
        raise HandoverError(f"the state is none of ours: {error}") from error
    if handover.format != FORMAT:
        raise HandoverError(f"the state is of another version: {handover.format!r}, not {FORMAT!r}")
    return handover
