"""Debian packages, downloaded and unpacked into the cache: the machine's own packages stay as they are.

The cache is VHOSTFS_CACHE, or .cache in the repo. apt gets lists of its own there, so that neither root nor
fresh system lists are needed; what stands in the cache is used as it is, without the network. Packages come
from wherever the machine's apt is configured to look.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.guest.programs import environment

REPO = Path(__file__).resolve().parent.parent.parent
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class PackageError(Exception):
    """A package cannot be had; the text says which and what apt said."""


def cache_dir() -> Path:
    return Path(os.environ.get("VHOSTFS_CACHE") or REPO / ".cache")


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    plain = {**environment(), "LC_ALL": "C"}
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=plain)
    except FileNotFoundError:
        raise PackageError(
            f"no {command[0]}: the guest is made of Debian packages, so a Debian-like machine is needed"
        ) from None
    if done.returncode:
        raise PackageError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr.strip()}")
    return done.stdout


class Apt:
    """apt with lists and state of its own in the cache, for the machine's release or for another `suite`.

    With `of_sources` it knows source packages, and those only.
    """

    def __init__(self, suite: str | None = None, *, of_sources: bool = False) -> None:
        state = cache_dir() / f"apt-{suite or 'own'}{'-src' if of_sources else ''}"
        for folder in ("lists/partial", "archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        (state / "status").write_text("")  # nothing counts as installed: a closure is the whole closure
        self._options = [f"-oDir::State::lists={state}/lists", f"-oDir::State::status={state}/status"]
        self._options += [f"-oDir::Cache={state}", f"-oDir::Cache::archives={state}/archives"]
        if os.geteuid() == 0:
            self._options.append("-oAPT::Sandbox::User=root")  # the cache need not be readable for _apt
        if suite or of_sources:
            codename, mirror = Apt()._mirror()
            kind = "deb-src" if of_sources else "deb"
            line = f"{kind} [signed-by={KEYRING}] {mirror} {suite or codename} main\n"
            (state / "sources.list").write_text(line)
            self._options += [
                f"-oDir::Etc::sourcelist={state}/sources.list",
                "-oDir::Etc::sourceparts=/dev/null",
            ]
        _run(["apt-get", "-qq", *self._options, "update"])

    def _mirror(self) -> tuple[str, str]:
        """The release that the machine is configured for, and the address of its Debian mirror."""
        targets = _run(
            ["apt-get", *self._options, "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)"]
        )
        for line in targets.splitlines():
            origin, codename, address = line.split(" ", 2)
            if origin == "Debian" and "-" not in codename:
                return codename, address
        raise PackageError("apt is not configured for a Debian mirror")

    def closure(self, packages: Sequence[str]) -> list[str]:
        """`packages` and all that they depend on (no recommendations)."""
        plan = _run(["apt-get", "-s", "-qq", "--no-install-recommends", *self._options, "install", *packages])
        return [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]

    def depends(self, package: str) -> list[str]:
        lines = _run(["apt-cache", *self._options, "depends", package]).splitlines()
        return [line.split()[1] for line in lines if line.strip().startswith("Depends:")]

    def unpack(self, packages: Sequence[str], root: Path) -> None:
        """Download `packages` and unpack them over each other into `root`."""
        with tempfile.TemporaryDirectory(dir=cache_dir()) as debs:
            _run(["apt-get", "-qq", *self._options, "download", *packages], cwd=Path(debs))
            for deb in sorted(Path(debs).glob("*.deb")):
                _run(["dpkg", "-x", str(deb), str(root)])

    def source(self, package: str, folder: Path) -> None:
        """Download the files of a source package into `folder`."""
        _run(["apt-get", "-qq", *self._options, "source", "--download-only", package], cwd=folder)


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes `target` when the block ends well."""
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    part.chmod(0o755)
    try:
        yield part
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def kernel_tree(suite: str | None = None) -> Path:
    """An unpacked linux-image package: the machine's release's, or that of another Debian `suite`."""
    target = cache_dir() / f"kernel-{suite or 'own'}"
    with _locked(target.parent):
        if not target.is_dir():
            apt = Apt(suite)
            images = [name for name in apt.depends("linux-image-amd64") if name.startswith("linux-image-")]
            if not images:
                raise PackageError("apt knows no kernel behind linux-image-amd64; the guest is x86-64 only")
            with _whole_or_nothing(target) as part:
                apt.unpack(images[:1], part)
    return target


def python_root() -> Path:
    """A root file system with Python, pip, bash and what they need: unpacked, so no maintainer script ran."""
    target = cache_dir() / "root-python3"
    with _locked(target.parent):
        if not target.is_dir():
            apt = Apt()
            with _whole_or_nothing(target) as part:
                apt.unpack(apt.closure(["python3", "python3-pip", "bash", "coreutils", "tzdata"]), part)
    return target


#: a compiler and what configure scripts and makefiles call, and two that load file systems
TOOLS = [
    "bash",
    "binutils",
    "bzip2",
    "coreutils",
    "cpp",
    "dash",
    "diffutils",
    "findutils",
    "fio",
    "gawk",
    "gcc",
]
TOOLS += ["grep", "gzip", "libc6-dev", "make", "patch", "sed", "stress-ng", "tar", "xz-utils"]
#: what maintainer scripts would have made
LINKS = {"usr/bin/awk": "gawk", "usr/bin/cc": "gcc"}


def tools_root() -> Path:
    """A root file system to compile in, with fio and stress-ng."""
    target = cache_dir() / "root-tools"
    with _locked(target.parent):
        if not target.is_dir():
            apt = Apt()
            with _whole_or_nothing(target) as part:
                apt.unpack(apt.closure(TOOLS), part)
                for name, to in LINKS.items():
                    (part / name).symlink_to(to)
                for folder in ("dev", "proc", "srv", "tmp"):
                    (part / folder).mkdir(exist_ok=True)
                shutil.rmtree(part / "usr/share/doc", ignore_errors=True)
    return target


def swift_root() -> Path:
    """OpenStack Swift, an object store that speaks S3 too, with the Python and libraries that it needs."""
    target = cache_dir() / "root-swift"
    with _locked(target.parent):
        if not target.is_dir():
            apt = Apt()
            with _whole_or_nothing(target) as part:
                apt.unpack(apt.closure(["python3-swift"]), part)
                for folder in ("doc", "locale", "man"):
                    shutil.rmtree(part / "usr/share" / folder, ignore_errors=True)
    return target


def rust_virtiofsd() -> Path:
    """A folder with Debian 13's virtiofsd, which is written in Rust, and the libraries that it needs."""
    target = cache_dir() / "virtiofsd-rust"
    with _locked(target.parent):
        if not target.is_dir():
            apt = Apt("trixie")
            with _whole_or_nothing(target) as part:
                apt.unpack(["virtiofsd", "libc6", "libcap-ng0", "libseccomp2", "libgcc-s1"], part)
    return target


def source_package(name: str) -> Path:
    """A folder with the files of a Debian source package."""
    target = cache_dir() / f"source-{name}"
    with _locked(target.parent):
        if not target.is_dir():
            apt = Apt(of_sources=True)
            with _whole_or_nothing(target) as part:
                apt.source(name, part)
    return target


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """A folder with packages of the machine's release, unpacked over each other, without what they need."""
    target = cache_dir() / name
    with _locked(target.parent):
        if not target.is_dir():
            apt = Apt()
            with _whole_or_nothing(target) as part:
                apt.unpack(packages, part)
    return target
