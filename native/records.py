"""On-disk structs of native/decl/rafs_v6.h as Python records.

The layout comes from the compiled header through cffi (field names, offsets, sizes), so the Python
builder writes the very structs that the C reader reads. A Record packs and parses at the speed of
`struct.Struct`.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable
from typing import Any

from native._dataplane import ffi

#: as a plain callable: the type checker cannot know fields that are known at run time only
_named_tuple: Callable[..., Callable[..., Any]] = namedtuple
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Record:
    """One little-endian struct: `pack(field=value, ...)` fills absent and reserved fields with zero."""

    def __init__(self, name: str) -> None:
        ctype = ffi.typeof(f"struct {name}")
        layout, position, zeros = "<", 0, {}
        for field, info in ctype.fields:
            if info.offset != position:
                raise AssertionError(f"{name}.{field} is not at {position}: the header has a hole")
            size = ffi.sizeof(info.type)
            is_array = info.type.kind == "array"
            layout += f"{size}s" if is_array else _CODES[size]
            zeros[field] = b"" if is_array else 0
            position += size
        self.name = name
        self.size: int = ffi.sizeof(ctype)
        self._struct = struct.Struct(layout)
        assert self._struct.size == self.size
        self._zeros = zeros
        self._make = _named_tuple(name, list(zeros))

    def pack(self, **fields: int | bytes) -> bytes:
        """Return `size` bytes. Raises `struct.error` for a value out of range, TypeError for a
        field that the struct does not have."""
        if not fields.keys() <= self._zeros.keys():
            raise TypeError(f"struct {self.name} has no {sorted(fields.keys() - self._zeros.keys())}")
        return self._struct.pack(*{**self._zeros, **fields}.values())

    def parse(self, data: bytes | bytearray | memoryview, offset: int = 0) -> Any:
        """Return a named tuple of the struct at `offset`. Raises `struct.error` when `data` is too short."""
        return self._make(*self._struct.unpack_from(data, offset))
