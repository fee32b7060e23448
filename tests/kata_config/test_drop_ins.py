"""Kata's drop-ins, against what both runtimes' configuration parsers know.

Facts from Kata Containers at commits 7c6ba40c54ea (2026-08-22) and 337b60026814 (release 3.32.0):
src/runtime/pkg/katautils/config.go (the Go runtime), src/libs/kata-types/src/config/hypervisor/mod.rs,
hypervisor/{qemu,ch}.rs and drop_in.rs (runtime-rs).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from vhostfs.nydusd.arguments import parse_arguments

CONFIG = REPO / "kata-config"
COMMITS = ("7c6ba40c54ea", "337b60026814")
#: keys of a hypervisor's table that concern the shared file system, and their types: the same in both parsers
KEYS: dict[str, type] = {
    "shared_fs": str,
    "virtio_fs_daemon": str,
    "valid_virtio_fs_daemon_paths": list,
    "virtio_fs_extra_args": list,
    "virtio_fs_cache": str,
    "virtio_fs_cache_size": int,
    "virtio_fs_queue_size": int,
}
#: values of shared_fs that each takes
SHARED_FS = {
    "go": {"virtio-9p", "virtio-fs", "virtio-fs-nydus", "none"},
    "runtime-rs": {"virtio-fs", "inline-virtio-fs", "virtio-fs-nydus", "none"},
}
#: names of hypervisors' tables that each knows; an unknown one stops the runtime
TABLES = {
    "go": {"firecracker", "clh", "qemu", "dragonball", "stratovirt", "remote"},
    "runtime-rs": {"firecracker", "clh", "qemu", "dragonball", "openvmm", "remote"},
}
#: what stands in the shipped configurations (src/runtime/Makefile): flags of virtiofsd
SHIPPED_EXTRA_ARGS = ["--thread-pool-size=1", "--announce-submounts"]
DROP_INS = sorted(path for folder in ("go", "runtime-rs") for path in (CONFIG / folder).rglob("*.toml"))


def table_of(drop_in: Path) -> tuple[str, dict[str, Any]]:
    """(hypervisor, its table) of a drop-in that has nothing else."""
    content = tomllib.loads(drop_in.read_text())
    assert set(content) == {"hypervisor"}
    [(hypervisor, table)] = content["hypervisor"].items()
    return hypervisor, table


def merge(base: dict[str, Any], drop_in: dict[str, Any]) -> dict[str, Any]:
    """As both runtimes do it: tables are merged, all else is replaced, arrays too."""
    merged = dict(base)
    for key, value in drop_in.items():
        before = merged.get(key)
        merged[key] = merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def test_there_is_one_for_each_runtime_and_hypervisor() -> None:
    names = {str(path.relative_to(CONFIG)) for path in DROP_INS}
    assert names == {
        f"{runtime}/60-vhostfs-{vmm}.toml" for runtime in ("go", "runtime-rs") for vmm in ("qemu", "clh")
    }
    # runtime-rs takes no symlinks
    assert all(path.is_file() and not path.is_symlink() for path in DROP_INS)


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: str(path.relative_to(CONFIG)))
def test_a_drop_in_says_what_the_parser_knows(drop_in: Path) -> None:
    runtime = drop_in.parent.name
    hypervisor, table = table_of(drop_in)
    assert hypervisor in TABLES[runtime]
    assert drop_in.stem == f"60-vhostfs-{hypervisor}"
    for key, value in table.items():
        assert type(value) is KEYS[key], key
    assert table["shared_fs"] == "virtio-fs-nydus" and table["shared_fs"] in SHARED_FS[runtime]
    # both stop without a daemon's path; runtime-rs with a DAX window of a size that nothing serves
    assert Path(table["virtio_fs_daemon"]).is_absolute()
    assert table["virtio_fs_daemon"] in table["valid_virtio_fs_daemon_paths"]
    assert table["virtio_fs_cache_size"] == 0


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: str(path.relative_to(CONFIG)))
def test_over_the_shipped_configuration_it_gives_a_command_that_we_take(drop_in: Path) -> None:
    hypervisor, _ = table_of(drop_in)
    shipped = {
        "hypervisor": {
            hypervisor: {
                "path": "/opt/kata/bin/vmm",
                "shared_fs": "virtio-fs",
                "virtio_fs_daemon": "/usr/libexec/virtiofsd",
                "virtio_fs_extra_args": SHIPPED_EXTRA_ARGS,
                "virtio_fs_cache": "auto",
            }
        },
        "runtime": {"enable_debug": False},
    }
    merged = merge(shipped, tomllib.loads(drop_in.read_text()))
    table = merged["hypervisor"][hypervisor]
    assert table["path"] == "/opt/kata/bin/vmm" and merged["runtime"] == shipped["runtime"]
    flags = ["--hybrid-mode"] if drop_in.parent.name == "runtime-rs" else []
    words = ["virtiofs", *flags, "--log-level", "info", "--apisock", "/run/a", "--sock", "/run/v"]
    assert parse_arguments([*words, *table["virtio_fs_extra_args"]]).ignored == ()
    # and without the drop-in's empty list, the shipped flags have no effect and do no harm
    assert parse_arguments([*words, *SHIPPED_EXTRA_ARGS]).ignored == tuple(SHIPPED_EXTRA_ARGS)


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: str(path.relative_to(CONFIG)))
def test_what_its_comments_propose_is_taken(drop_in: Path) -> None:
    proposed = re.findall(r'^# (?=")(.*)$', drop_in.read_text(), re.MULTILINE)
    assert len(proposed) == 1
    words = tomllib.loads(f"words = [{proposed[0]}]")["words"]
    arguments = parse_arguments(["virtiofs", "--sock", "/run/v", *words])
    assert arguments.sandbox_writable and arguments.sandbox_readable


def test_the_daemon_is_installed_under_the_name_that_drop_ins_give() -> None:
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    for drop_in in DROP_INS:
        assert Path(table_of(drop_in)[1]["virtio_fs_daemon"]).name in scripts


def test_pages_name_the_commits_and_files_that_exist() -> None:
    pages = {page.name: page.read_text() for page in CONFIG.glob("*.md")}
    assert {"README.md", "install.md", "roll-back.md", "modes.md", "sandbox.md"} <= set(pages)
    for commit in COMMITS:
        assert commit in pages["README.md"]
    for text in pages.values():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (CONFIG / target).exists(), target
        for name in re.findall(r"\b(?:go|runtime-rs|systemd)/[\w@.-]+\.(?:toml|service)", text):
            assert (CONFIG / name).is_file(), name
