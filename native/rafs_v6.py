"""The numbers that native/decl/rafs_v6.h #defines: `from native.rafs_v6 import RAFS_CI_MAGIC`.

The header is their only declaration; this module hands out what the compiler read.
"""

from __future__ import annotations

from native._dataplane import lib


def __getattr__(name: str) -> int:
    if name.startswith(("EROFS_", "RAFS_")):
        return int(getattr(lib, name))
    raise AttributeError(f"native/decl/rafs_v6.h defines no {name}")
