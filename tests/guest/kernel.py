"""The guest's kernel: an image to boot and its modules in the order in which they load."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import zstandard

from tests.guest import debian


class KernelError(Exception):
    """The unpacked kernel package lacks something."""


@dataclass(frozen=True)
class Kernel:
    image: Path
    version: str
    modules: Path  # .../lib/modules/VERSION

    @classmethod
    def of(cls, suite: str | None = None) -> Kernel:
        """Debian's kernel for `suite` (None: the machine's own release), fetched when the cache has none."""
        tree = debian.kernel_tree(suite)
        images = sorted(tree.glob("boot/vmlinuz-*"))
        if not images:
            raise KernelError(f"no boot/vmlinuz-* in {tree}: remove that folder, it is fetched again")
        version = images[0].name.removeprefix("vmlinuz-")
        for modules in (tree / "lib/modules" / version, tree / "usr/lib/modules" / version):
            if (modules / "kernel").is_dir():
                return cls(images[0], version, modules)
        raise KernelError(f"no modules for {version} in {tree}: remove that folder, it is fetched again")

    def load_order(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """The modules `wanted` and what they depend on: name to plain file, each after its dependencies.

        An unpacked package has no modules.dep, so that each module's own `depends=` is read. Modules that are
        built in are left out; one that the kernel does not have raises KernelError.
        """
        files = {_name(path.name): path for path in (self.modules / "kernel").rglob("*.ko*")}
        built_in = {
            _name(Path(line).name) for line in (self.modules / "modules.builtin").read_text().splitlines()
        }
        order: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in order or name in built_in:
                return
            if name not in files:
                raise KernelError(f"kernel {self.version} has no module {name}")
            module = _uncompressed(files[name])
            depends = re.search(rb"\0depends=([^\0]*)\0", module)
            for dependency in depends[1].decode().split(",") if depends and depends[1] else []:
                add(_name(dependency))
            order[name] = module

        for name in wanted:
            add(_name(name))
        return order


def _name(file_name: str) -> str:
    return file_name.split(".ko")[0].replace("-", "_")


def _uncompressed(path: Path) -> bytes:
    raw = path.read_bytes()
    match path.suffix:
        case ".ko":
            return raw
        case ".xz":
            return lzma.decompress(raw)
        case ".zst":
            return zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        case ".gz":
            return gzip.decompress(raw)
    raise KernelError(f"unknown kind of module file: {path}")
