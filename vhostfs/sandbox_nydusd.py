"""What `vhostfs-nydusd` keeps in its sandbox.

It learns of images and caches by its API. So it keeps the directories in which Kata and the snapshotter put
them (KATA_SHARED, SNAPSHOTTER_ROOTS), those of its sockets and logs, and Python's modules, for it imports
late. Other directories are given by `--sandbox-readable` and `--sandbox-writable`; a request that needs one
is refused with a sentence that says so (`SandboxReport.refusal`). What a guest shares, it may change, with
the capabilities that takes. It has no network, and writes no cache: that is the agent's (sandbox_agent.py).

Light to import: Kata waits for this daemon.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import native
from vhostfs.sandbox_options import SandboxOptions
from vhostfs.sandbox_policy import ALWAYS, Place, SandboxPolicy, Use, chosen_places

#: below it, in shared/sandboxes/ID, both of Kata's runtimes put what a sandbox shares with its guest
KATA_SHARED = Path("/run/kata-containers")
#: nydus-snapshotter's configuration, and its root where that says nothing: its own default, and the one
#: that its packages and Kata's tests choose
SNAPSHOTTER_CONFIG = Path("/etc/nydus/config.toml")
SNAPSHOTTER_ROOTS = (
    Path("/var/lib/containerd/io.containerd.snapshotter.v1.nydus"),
    Path("/var/lib/containerd-nydus"),
)
#: What a passthrough does for its guest's users: files of any owner and mode, device nodes (whiteouts are
#: some), file capabilities, and trusted.* attributes, which ask for no less than SYS_ADMIN; mounts and the
#: like, which that would allow as well, are a matter of seccomp.
PASSTHROUGH_CAPABILITIES = frozenset(
    {
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "MKNOD",
        "SETFCAP",
        "SETGID",
        "SETUID",
        "SYS_ADMIN",
    }
)


def nydusd_policy(
    chosen: SandboxOptions,
    *,
    sockets: Iterable[Path] = (),
    logs: Iterable[Path] = (),
    readable: Iterable[Path] = (),
    caches: Iterable[Path] = (),
    shared: Iterable[Path] = (),
    file_handles: bool = True,
) -> SandboxPolicy:
    """What `vhostfs-nydusd virtiofs` keeps. All paths are absolute.

    `sockets`, `logs`: files that it makes. `readable`, `caches`: what its configuration names at the start
    (bootstraps, blobs and certificates; caches). `shared`: host directories for the guest. `file_handles`:
    whether their inodes may be held by handles.
    """
    sockets = list(sockets)
    for_guests = (*shared, *kata_shares(sockets))
    places = [Place(path, Use.SHARED) for path in for_guests]
    roots, their_caches = snapshotter_directories()
    caches = [*their_caches, *caches]
    places += [Place(path, Use.READ) for path in (*roots, *caches, *readable)]
    places += [Place(path.parent, Use.SOCKETS) for path in sockets]
    places += [Place(path.parent, Use.OUTPUT) for path in logs]
    places += [Place(path, Use.CODE) for path in code_directories()]
    return SandboxPolicy(
        places=(*places, *ALWAYS, *chosen_places(chosen)),
        followed=for_guests,
        capabilities=PASSTHROUGH_CAPABILITIES - (set() if file_handles else {"DAC_READ_SEARCH"}),
        caches=(*caches, *chosen.writable),
        late_code=True,
        passthrough=True,
        file_handles=file_handles,
        nofile=0,  # the command line has said
        off=chosen.off,
    )


def snapshotter_directories(config: Path = SNAPSHOTTER_CONFIG) -> tuple[list[Path], list[Path]]:
    """Where the snapshotter keeps bootstraps, and caches of blobs: the usual places, and what `config` says.

    Lines are looked for, not TOML parsed: that takes longer than all else here.
    """
    try:
        text = config.read_text()
    except (OSError, UnicodeDecodeError):
        text = ""
    said = {key: [Path(value) for value in _values(text, key)] for key in ("root", "cache_dir")}
    roots = [*SNAPSHOTTER_ROOTS, *said["root"]]
    return roots, [*(root / "cache" for root in roots), *said["cache_dir"]]


def _values(text: str, key: str) -> Iterator[str]:
    """The values of lines `key = "/VALUE"`."""
    for line in text.splitlines():
        name, _, rest = line.partition("=")
        value = rest.strip()[1:].partition(rest.strip()[:1] or '"')[0]
        if name.strip() == key and value.startswith("/"):
            yield value


def kata_shares(sockets: Iterable[Path], kata: Path = KATA_SHARED) -> list[Path]:
    """Where Kata shares directories with the guest of a daemon with these sockets.

    Those of its own sandbox only, where they exist: its id is in the path of the sockets. With a VMM that has
    no root, all of Kata's paths are below XDG_RUNTIME_DIR, which Kata sets.
    """
    roots = [kata]
    if runtime_dir := os.environ.get("XDG_RUNTIME_DIR"):
        roots.append(Path(runtime_dir) / kata.relative_to("/"))
    names = {name for path in sockets for name in path.parts[1:-1]}
    own = [root / "shared/sandboxes" / name for root in roots for name in sorted(names)]
    return [path for path in own if path.is_dir()] or roots


def code_directories() -> list[Path]:
    """Where Python and the linker find what they load: our packages, the library, site-packages, libraries.

    Not the working directory, which is on Python's path when it runs a module.
    """
    ours = Path(native.__file__).parent.parent
    found = [ours / name for name in ("native", "rafs", "virtqueue", "vhostfs")]
    found += [Path(path) for path in sys.path if path and Path(path) not in (Path.cwd(), Path("/"))]
    found += [Path("/etc/ld.so.cache"), *_library_directories()]
    return list(dict.fromkeys(path for path in found if path.is_absolute()))


def _library_directories() -> Iterator[Path]:
    """Of all libraries that are mapped now; what they load later is beside them, or beside the module."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line[73:].strip())
        if ".so" in path.name:
            yield path.parent
