"""Disk images with partitions, made by sfdisk, which also says what is in them: the oracle."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

MIB = 1 << 20
LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
BASIC_DATA = UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")


class NewPartition(NamedTuple):
    """`size` in bytes, a multiple of 512."""

    name: str
    guid: UUID
    size: int
    type_guid: UUID = LINUX


def make_disk(path: Path, partitions: list[NewPartition], size: int = 16 * MIB) -> None:
    """Write a sparse image of a disk with these partitions one behind the other."""
    with path.open("wb") as file:
        file.truncate(size)
    lines = ["label: gpt", "first-lba: 2048"]
    lines += [
        f'size={part.size // 512}, type={part.type_guid}, uuid={part.guid}, name="{part.name}"'
        for part in partitions
    ]
    _sfdisk(str(path), script="\n".join(lines) + "\n")


def partitions_of(path: Path) -> list[dict[str, Any]]:
    """What sfdisk says of it: start and size in blocks, type, uuid, name."""
    found: list[dict[str, Any]] = json.loads(_sfdisk("--json", str(path)))["partitiontable"]["partitions"]
    return found


def write_at(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def _sfdisk(*arguments: str, script: str = "") -> str:
    command = ["/usr/sbin/sfdisk", "--quiet", *arguments]
    return subprocess.run(command, input=script, capture_output=True, text=True, check=True).stdout
