"""The sandbox: what a daemon gives up before it meets a guest, in which order, and what became of it.

    report = apply_sandbox(policy)      # one thread, before the event loop
    current().as_json()                 # for the API

PARTS, each switched off by `--no-sandbox=PART`:

mounts         a mount namespace whose root holds the policy's places only (vhostfs/sandbox_root.py); without
               network also a network namespace with nothing in it, if one can be had
capabilities   all but the policy's, from the bounding set too
no-new-privs   no program could gain privileges; a condition of the next two
landlock       rights on files by path, no listening on TCP, no signals to processes outside
seccomp        an allow-list of system calls (vhostfs/syscalls.py)

A part that the machine cannot give is reported as unavailable, with the reason, and logged; the daemon goes
on. A part that fails where it should work is an error. The limit of open descriptors is raised first, while
we may. It is all done before the event loop is made: libuv would make an io_uring, past any filter.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
from pathlib import Path

from native import sandbox
from native.sandbox import Access, Action, MountFlag
from vhostfs import sandbox_root, syscalls
from vhostfs.sandbox_options import PARTS, check_parts
from vhostfs.sandbox_policy import CAPABILITIES, Place, SandboxError, SandboxPolicy, Use

log = logging.getLogger(__name__)


class SandboxReport:
    """What became of each part: `on` (perhaps with a restriction), `off`, or `unavailable: ` and why.

    `nofile`: the limit of open files. `places`: what is in reach. `capabilities`: names of those held.
    `landlock_abi`: the kernel's, 0 if it has none. `landlock_forbidden`: rights that only places give.
    """

    def __init__(
        self, nofile: int = 0, places: tuple[Place, ...] = (), caches: tuple[Path, ...] = ()
    ) -> None:
        self.parts = dict.fromkeys(PARTS, "off")
        self.nofile = nofile
        self.places = places
        self.caches = caches
        self.capabilities: list[str] = []
        self.landlock_abi = 0
        self.landlock_forbidden = Access(0)

    def as_json(self) -> dict[str, object]:
        """Return {parts: {part: state}, nofile, capabilities: [], landlock_abi, places: {use: [path]}}."""
        places: dict[str, list[str]] = {}
        for place in self.places:
            places.setdefault(place.use.name.lower(), []).append(str(place.path))
        return {
            "parts": dict(self.parts),
            "nofile": self.nofile,
            "capabilities": list(self.capabilities),
            "landlock_abi": self.landlock_abi,
            "places": places,
        }

    def refusal(self, path: Path, use: Use) -> str | None:
        """Why `path`, known only now, cannot be used so: a sentence that names the remedy; None if it can."""
        real = path.resolve()
        covering = [place for place in self.places if real.is_relative_to(place.path.resolve())]
        writes = MountFlag.RDONLY not in use.mount_flags
        if self.parts["mounts"] == "on":
            nearest = max(covering, key=lambda place: len(place.path.resolve().parts), default=None)
            hidden = nearest is None or (writes and MountFlag.RDONLY in nearest.use.mount_flags)
        else:
            hidden = False
        allowed = Access(0)
        for place in covering:
            allowed |= place.use.access
        hidden |= bool(use.access & self.landlock_forbidden & ~allowed)
        if not hidden:
            return None
        option, verb = ("--sandbox-writable", "change") if writes else ("--sandbox-readable", "read")
        remedy = f"start with {option} and this path, or a directory above it (in Kata: virtio_fs_extra_args)"
        return f"{path}: the sandbox does not let us {verb} it; {remedy}"

    def refusal_of_cache(self, path: Path) -> str | None:
        """The same of a cache directory, for which an agent may have to be started."""
        real = path.resolve()
        if not self.caches or any(real.is_relative_to(cache.resolve()) for cache in self.caches):
            return None
        remedy = "start with --sandbox-writable and this path, or a directory above it"
        return f"{path}: the sandbox lets no cache be there; {remedy} (in Kata: virtio_fs_extra_args)"


_current = SandboxReport()


def current() -> SandboxReport:
    """What has become of the sandbox of this process."""
    return _current


def apply_sandbox(policy: SandboxPolicy) -> SandboxReport:
    """Give up what the policy does not keep. Raises SandboxError; ValueError for parts that need others."""
    check_parts(policy.off)
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 (no need for paths)
    if threads != 1:
        raise RuntimeError(f"the sandbox has to be entered before threads are started; there are {threads}")
    report = SandboxReport(_raise_nofile(policy.nofile), policy.places, policy.caches)
    steps = {
        "mounts": _enter_root,
        "capabilities": _drop_capabilities,
        "no-new-privs": _set_no_new_privs,
        "landlock": _restrict_paths,
        "seccomp": _filter_calls,
    }
    for part, step in steps.items():
        if part in policy.off:
            continue
        try:
            report.parts[part] = step(policy, report)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SandboxError(f"sandbox: {reason}; --no-sandbox={part} goes without it") from error
    global _current
    _current = report
    held = _status_field("CapPrm")
    report.capabilities = [name for bit, name in enumerate(CAPABILITIES) if held >> bit & 1]
    for part, state in report.parts.items():
        if state.startswith("unavailable"):
            log.warning("sandbox: %s is %s", part, state)
    return report


def _status_field(name: str) -> int:
    """A field of /proc/self/status that is a bit mask."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1], 16)
    raise ValueError(f"/proc/self/status has no {name}")


def _has(capability: str) -> bool:
    return bool(_status_field("CapEff") >> CAPABILITIES.index(capability) & 1)


def _raise_nofile(wanted: int | None) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted == 0:
        return soft
    limit = hard if wanted is None else wanted
    if limit > hard and _has("SYS_RESOURCE"):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except ValueError:  # beyond fs.nr_open
            pass
        else:
            return limit
    limit = max(soft, min(limit, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


# The parts. Each returns its state, or raises OSError.


def _enter_root(policy: SandboxPolicy, _: SandboxReport) -> str:
    with_user = not _has("SYS_ADMIN")
    mounts = sandbox_root.MountTable.read()
    for path in policy.followed:
        if path.exists() and not mounts.is_followed(path.resolve()):
            return f"unavailable: {path} is not on a shared mount, so later mounts below it would not be seen"
    places: dict[Path, MountFlag] = {}
    for place in policy.places:
        places[place.path] = places.get(place.path, place.use.mount_flags) & place.use.mount_flags
    try:
        sandbox_root.enter(places, mounts, with_user=with_user, network=policy.network)
    except OSError as error:
        if _is_unavailable(error, with_user):
            return f"unavailable: {error.strerror}"
        raise
    return "on"


def _is_unavailable(error: OSError, with_user: bool) -> bool:
    """Whether the kernel lacks it (mount_setattr came with 5.12) or will not let us have it.

    A security module, or a container's own filter, may forbid it to root as well.
    """
    missing = (errno.ENOSYS, errno.EPERM, errno.EACCES)
    return error.errno in missing or (with_user and error.errno in (errno.ENOSPC, errno.EINVAL, errno.EUSERS))


def _drop_capabilities(policy: SandboxPolicy, _: SandboxReport) -> str:
    sandbox.keep_capabilities(sum(1 << CAPABILITIES.index(name) for name in policy.capabilities))
    return "on"


def _set_no_new_privs(_: SandboxPolicy, __: SandboxReport) -> str:
    sandbox.set_no_new_privs()
    return "on"


def _restrict_paths(policy: SandboxPolicy, report: SandboxReport) -> str:
    report.landlock_abi = sandbox.landlock_abi()
    if not report.landlock_abi:
        return "unavailable: this kernel has no Landlock, or it is switched off"
    forbidden = policy.forbidden & sandbox.access_of_abi(report.landlock_abi)
    if forbidden and policy.passthrough and Access.REFER not in forbidden:
        return "unavailable: before Linux 5.19, Landlock forbids every move to another directory"
    rules = [(place.path, place.use.access) for place in policy.places if place.path.exists()]
    # (writing: names of threads)
    rules.append((Path("/proc/self"), Access.READ_FILE | Access.READ_DIR | Access.WRITE_FILE))
    if not sandbox.restrict_by_landlock(forbidden, rules):
        return "unavailable: files are opened by handle, and this kernel's Landlock concerns paths only"
    report.landlock_forbidden = forbidden
    return "on" if forbidden else "on, but not for files: they are opened by handle"


def _filter_calls(policy: SandboxPolicy, _: SandboxReport) -> str:
    quiet = sandbox.SeccompFilter(Action.ALLOW)
    loud = sandbox.SeccompFilter(Action.ERRNO, errno.ENOSYS, is_logged=True)
    try:
        for name in syscalls.QUIET:
            quiet.add(Action.ERRNO, name, error=errno.ENOSYS)
            loud.add(Action.ALLOW, name)  # else the loud one answers too, and logs
        for rule in syscalls.allowed(
            network=policy.network,
            late_code=policy.late_code,
            passthrough=policy.passthrough,
            file_handles=policy.file_handles,
        ):
            loud.add(Action.ALLOW, rule.name, rule.conditions)
        for rule in syscalls.refused(network=policy.network, late_code=policy.late_code):
            loud.add(Action.ERRNO, rule.name, rule.conditions, error=errno.EPERM)
        for name in syscalls.DEADLY:
            loud.add(Action.KILL, name)
        quiet.load()  # the first forbids nothing that loading the second needs
        loud.load()
    finally:
        quiet.close()
        loud.close()
    return "on"
