"""POSIX in a guest: a shared directory answers as the file system below it does, case by case."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.guest.kernel import Kernel
from tests.guest.nydusd import run_on_share
from tests.guest.vm import Guest
from tests.posix import suite
from tests.posix.suite import Answer

#: What is another way in a guest, and why it has to be. Each of them must occur.
KNOWN = {
    r"fallocate\.shift\..*": "the driver refuses COLLAPSE and INSERT before there is a request",
    r"chown\.setid(\.user)?\.\d+(\.root)?\.none|chown\.times": (
        "chown(-1, -1) changes nothing, so that the driver sends nothing: with HANDLE_KILLPRIV_V2 the "
        "set-user-id bit is the device's to clear, when it is asked to"
    ),
    r"chown\.setid\.\d+\.root\.same|cap\.truncate\.root\.same": (
        "what root sets to the owner or size that it has keeps set-id bits and capabilities: overlayfs ends "
        "a copy-up so, and the two cannot be told apart"
    ),
    r"create\.in-removed": (
        "a removed directory that is only somebody's working directory: held by its file handle, not by a "
        "descriptor, it is gone, and listing it is ESTALE"
    ),
    r"hole\.seek\.(data|hole)-neg": "EINVAL, not ENXIO, for what is not an offset",
    r"hole\.seek\.folder": "the driver does not ask a device about holes in a directory",
    r"perm\.xattr\.trusted\.(owner|group|supp|other)|xattr\.user": (
        "the driver does not hide names of trusted attributes from users, as local file systems do; "
        "their values it does"
    ),
    r"setid\.(write|truncate|ftruncate|fallocate)\.0[26]767\.user": (
        "a set-group-id bit without the group's right to execute stays: whether the writer is in the group "
        "is not in the request"
    ),
}

#: the same of options for the directory
KNOWN_WITH = {
    "writeback": {
        r"data\.limit": "what the guest gathers, the host can refuse only later",
        r"times\.truncate\.4": "a guest that keeps the times itself does not tell of a size that stays",
        r"utimens\.open": "to write a part of a page the guest reads it first: an access",
    },
    "locks": {
        r"lock\.ofd-and-posix": "the driver does not tell of the end of locks that belong to an open file",
    },
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite.build(tmp_path_factory.mktemp("posix"))


@pytest.fixture(scope="module")
def on_the_host(program: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    return suite.run(program, tmp_path_factory.mktemp("host"))


def compare(
    program: Path,
    on_the_host: dict[str, Answer],
    work: Path,
    release: str | None,
    known: Iterable[str],
    options: Sequence[str] = (),
) -> None:
    """Run the cases in a guest; they differ from the host's as is known, and in nothing else."""
    folder = work / "share"
    folder.mkdir()
    guest, files = Guest(kernel=Kernel.of(release)), {"/bin/posix": program}
    result = run_on_share(
        guest, folder, "posix $SHARE", work, files=files, share_options=options, timeout_s=240
    )
    said = result.check().stdout.decode(errors="surrogateescape")
    found = suite.differences(on_the_host, suite.parse(said))
    assert len(on_the_host) > suite.CASES
    unknown = [found[name] for name in found if not is_known(name, known)]
    assert not unknown, "\n".join(unknown)
    assert [pattern for pattern in known if not any(is_known(name, [pattern]) for name in found)] == []


RELEASES = [
    pytest.param(None, id="linux-6.1"),
    pytest.param("trixie", id="linux-6.12", marks=pytest.mark.long),
]


@pytest.mark.parametrize("release", RELEASES)
def test_all_cases(
    program: Path, on_the_host: dict[str, Answer], tmp_path: Path, release: str | None
) -> None:
    compare(program, on_the_host, tmp_path, release, KNOWN)


@pytest.mark.long
@pytest.mark.parametrize("option", KNOWN_WITH)
def test_all_cases_with_an_option(
    program: Path, on_the_host: dict[str, Answer], tmp_path: Path, option: str
) -> None:
    compare(program, on_the_host, tmp_path, "trixie", [*KNOWN, *KNOWN_WITH[option]], [option])


def is_known(name: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
