"""A root directory with nothing in it but the files and trees that a daemon needs.

It is made in a mount namespace that follows the host's (a slave), so what the host mounts or unmounts later
below one of the trees does so here too, and our copies never keep a mount of the host busy. Where the host
does not share a mount, its children could not be followed, so they are left out.

Each place keeps its own path, also when symlinks lead to it: those are made again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from native import sandbox
from native.sandbox import MountFlag

#: Hidden by the new root while that is being built; nothing that a daemon needs is ever below it.
_BUILDING_SITE = Path("/sys")
_MAX_SYMLINKS = 40  # the kernel's own limit


def resolve(path: Path) -> tuple[Path, dict[Path, str | None]]:
    """Return where an absolute path leads, and what has to be there on the way beside parents of that.

    {real place: what the symlink there says; None for a directory}. Raises OSError (ELOOP).
    """
    on_the_way: dict[Path, str | None] = {}
    here = Path("/")
    ahead = list(reversed(path.parts[1:]))
    followed = 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            on_the_way.setdefault(here, None)
            here = here.parent
            continue
        step = here / name
        if not step.is_symlink():
            here = step
            continue
        followed += 1
        if followed > _MAX_SYMLINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        on_the_way[step] = str(target)
        if target.is_absolute():
            here = Path("/")
        ahead += reversed(target.parts[target.is_absolute() :])
    return here, on_the_way


class MountTable:
    """The mounts of the caller's namespace (/proc/self/mountinfo), and which of them ours will follow.

    A host has thousands; so they are read once.
    """

    def __init__(self, mountinfo: str) -> None:
        self._followed: dict[str, bool] = {}
        for line in mountinfo.splitlines():
            fields = line.split(" ")
            tags = fields[6 : fields.index("-", 6)]
            # of several at one place the last is on top
            self._followed[_unescape(fields[4])] = any(tag.startswith(("shared:", "master:")) for tag in tags)

    @classmethod
    def read(cls) -> MountTable:
        return cls(Path("/proc/self/mountinfo").read_text())

    def is_followed(self, path: Path) -> bool:
        """Whether later mounts below `path`, which has no symlinks, will be seen by us."""
        return self._followed.get(str(self.point_of(path)), False)

    def point_of(self, path: Path) -> Path:
        """Where the mount that `path` lies on begins."""
        return next((place for place in (path, *path.parents) if str(place) in self._followed), Path("/"))


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def enter(
    places: Mapping[Path, MountFlag], mounts: MountTable, *, with_user: bool, network: bool = True
) -> None:
    """Make the root of this process consist of `places` (absolute; a missing one is left out) and /proc/self.

    `mounts`: of the host. Without `network`, there is no interface either, where that can be. The working
    directory stays by name, empty but for places in it, so that relative paths stay good. Raises OSError;
    all is seen as before then. One thread only.
    """
    here = _working_directory()
    sandbox.unshare_mounts(with_user=with_user, with_network=not network)
    sandbox.mount_tmpfs(_BUILDING_SITE)
    try:
        _build(places, mounts, here, with_user)
        sandbox.pivot(_BUILDING_SITE)
    except OSError:
        with suppress(OSError):
            os.chdir(here)  # which the pivot may have left
            sandbox.umount(_BUILDING_SITE)
        raise
    os.chdir(here)


def _build(places: Mapping[Path, MountFlag], mounts: MountTable, here: Path, with_user: bool) -> None:
    steps: dict[Path, str | None] = {}
    trees: dict[Path, MountFlag] = {}
    for path, flags in places.items():
        real, on_the_way = resolve(path)
        steps |= on_the_way
        if real.exists():
            trees[real] = trees.get(real, flags) & flags
    for real in sorted(trees, key=lambda tree: len(tree.parts)):
        # All mounts of a namespace that was made without privilege hang together.
        place, recursive = real, with_user or mounts.is_followed(real)
        bound = next((above for above in _covering(real, trees) if trees[above] == trees[real]), None)
        if bound is not None:
            point = mounts.point_of(real)
            if with_user or mounts.is_followed(bound) or point == mounts.point_of(bound):
                continue  # it is there already; a mount of its own would only stand in the way of a rename
            place = point  # what is bound has only the directory that it is mounted on
        _bind(place, place, trees[real], recursive=recursive)
    # Our own directory of it, and no other process's: /proc/PID/root leads out.
    _bind(Path("/proc/self"), Path("/proc/self"), MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC)
    for step, target in (steps | {here: None}).items():
        _make_step(_inside(step), target)
    sandbox.set_mount_flags(_BUILDING_SITE, MountFlag.RDONLY)


def _covering(path: Path, trees: Iterable[Path]) -> list[Path]:
    """The nearest tree above `path`, if there is one."""
    return [above for above in path.parents if above in set(trees)][:1]


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was deleted
        return Path("/")


def _inside(path: Path) -> Path:
    return _BUILDING_SITE / path.relative_to("/")


def _bind(source: Path, place: Path, flags: MountFlag, *, recursive: bool = False) -> None:
    target = _inside(place)
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    if not source.is_dir() and not source.is_file():
        flags &= ~MountFlag.NODEV  # a device, by its own name, is meant
    sandbox.bind(source, target, flags, recursive=recursive)


def _make_step(step: Path, target: str | None) -> None:
    if target is None:
        step.mkdir(parents=True, exist_ok=True)
    elif not step.is_symlink():  # (it is there where it lies in a tree)
        step.parent.mkdir(parents=True, exist_ok=True)
        step.symlink_to(target)
