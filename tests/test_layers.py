"""The arrows of the house: who may import whom, which C file may include which header, how long a file is.

Python: vhostfs -> {virtqueue, rafs} -> native. C: the ring and guest memory on one side, FUSE and RAFS on
the other; the latter see iovecs only.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ["native", "rafs", "vhostfs", "virtqueue"]
#: package -> the packages of ours that it may import beside itself
ARROWS: dict[str, set[str]] = {
    "native": set(),
    "rafs": {"native"},
    "virtqueue": set(),
    "vhostfs": {"rafs", "virtqueue", "native"},
}
#: headers that know the ring or guest memory; a file system sees iovecs and nothing of these
RING_HEADER = re.compile(r"(vring|gpa|guest_memory|queue|virtqueue)\w*\.h|linux/(virtio_ring|vhost\w*)\.h")
C_FOLDERS = [REPO / "native" / "c", REPO / "native" / "decl"]
MAX_LINES = 400


def python_files(package: str) -> list[Path]:
    return sorted((REPO / package).rglob("*.py"))


def imports_of(text: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Every module that the source `text` in `package` imports, nested or relative: (line, dotted name)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def imports(package: str) -> Iterator[tuple[str, str]]:
    """Every import in the files of `package`: (where it stands, dotted name)."""
    for source in python_files(package):
        folder = source.relative_to(REPO).parts[:-1]
        for line, module in imports_of(source.read_text(), folder):
            yield f"{source.relative_to(REPO)}:{line} imports {module}", module


def includes_of(source: Path) -> Iterator[tuple[int, str, bool]]:
    """The #include lines of one file: (line, header, whether it is quoted and so ours)."""
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if match := re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line):
            yield number, match.group(2), match.group(1) == '"'


def reached_headers(source: Path) -> set[str]:
    """Names of all headers that `source` includes, through headers of ours too."""
    reached: set[str] = set()
    waiting = [source]
    while waiting:
        for _, header, _ in includes_of(waiting.pop()):
            if header not in reached:
                reached.add(header)
                waiting += [p for folder in C_FOLDERS if (p := folder / header).is_file()]
    return reached


def c_files(name: str) -> list[Path]:
    """Our C files and headers whose whole name matches the regular expression `name`."""
    return [p for p in sorted(C_FOLDERS[0].iterdir()) if re.fullmatch(name, p.name)]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_downwards_only(package: str) -> None:
    allowed = {package, *ARROWS[package]}
    ours = {*PACKAGES, "tests", "bench"}
    wrong = [where for where, module in imports(package) if module.split(".")[0] in ours - allowed]
    assert wrong == []


def test_virtqueue_is_standard_library_only() -> None:
    allowed = {*sys.stdlib_module_names, "virtqueue"}
    assert [where for where, module in imports("virtqueue") if module.split(".")[0] not in allowed] == []


def test_only_native_touches_the_compiled_module() -> None:
    others = [package for package in [*PACKAGES, "tests", "bench"] if package != "native"]
    wrong = [
        where
        for package in others
        for where, module in imports(package)
        if module.split(".")[:2] == ["native", "_dataplane"]
    ]
    assert wrong == []


def test_imports_are_found_in_every_form() -> None:
    text = "import os.path\ndef f():\n    from . import cache\n    from virtqueue.session import S\n"
    found = {name for _, name in imports_of(text, ("rafs",))}
    assert found == {"os.path", "rafs.cache", "virtqueue.session.S"}


#: FUSE, the kinds of file systems, and what they stand on
FILE_SYSTEMS = r"(fuse|rafs|passthrough|pseudofs|namespace|blob|upcall|image_api|store_api)\w*\.[ch]"


def test_file_systems_never_see_the_ring() -> None:
    kinds = {re.split(r"[_.]", p.name)[0] for p in c_files(FILE_SYSTEMS)}
    assert kinds >= {"fuse", "rafs", "rafsfs", "passthroughfs", "pseudofs", "namespace", "blob"}
    wrong = {
        p.name: bad
        for p in c_files(FILE_SYSTEMS)
        if (bad := sorted(h for h in reached_headers(p) if RING_HEADER.fullmatch(h)))
    }
    assert wrong == {}


def test_ring_and_guest_memory_never_see_fuse() -> None:
    wrong = {
        p.name: bad
        for p in c_files(r"(vring|gpa|barrier)\w*\.[ch]")
        if (
            bad := sorted(h for h in reached_headers(p) if re.match(r"(fuse|rafs|erofs|queue)|linux/fuse", h))
        )
    }
    assert wrong == {}


def test_a_quoted_include_names_a_header_of_ours() -> None:
    """So the arrows above are read from files that stand here."""
    wrong = [
        f"{p.name}:{line} includes {header}"
        for p in c_files(r".*\.[ch]")
        for line, header, quoted in includes_of(p)
        if quoted and not any((folder / header).is_file() for folder in C_FOLDERS)
    ]
    assert wrong == []


def test_no_file_is_over_400_lines() -> None:
    sources = [
        p
        for folder in [*PACKAGES, "tests", "bench"]
        for pattern in ("*.py", "*.c", "*.h")
        for p in (REPO / folder).rglob(pattern)
        if p.name != "_dataplane.c"  # written by cffi
    ]
    assert len(sources) > 10
    lengths = {str(p.relative_to(REPO)): len(p.read_text().splitlines()) for p in sources}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}
