"""The numbers that native/decl/rafs_v5.h #defines, as `native.rafs_v6` has those of rafs_v6.h."""

from __future__ import annotations

from native._dataplane import lib


def __getattr__(name: str) -> int:
    if name.startswith("RAFS_V5_"):
        return int(getattr(lib, name))
    raise AttributeError(f"native/decl/rafs_v5.h defines no {name}")
