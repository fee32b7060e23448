"""The cffi builder: compiles native/c/*.c into `native._dataplane`.

Everything Python may see of C stands in native/decl/*.h, in the order of DECLARATIONS. cffi cannot
run the preprocessor, so the lines that are not a #define of a plain number are dropped here; the C
compiler reads the same headers whole.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
#: (header, whether its structs are packed), in dependency order
DECLARATIONS = [
    ("rafs_v6.h", True),
    ("trace_format.h", True),
    ("rafs_v5.h", True),
    ("dataplane.h", False),
    ("sandbox.h", False),
]


def declarations(header: str) -> str:
    """Return what cffi can parse of native/decl/`header`."""
    lines = (NATIVE / "decl" / header).read_text().splitlines()
    number = re.compile(r"#define\s+\w+\s+(0[xX])?[0-9a-fA-F]+\s*(/\*.*\*/)?$")
    return "\n".join(line for line in lines if not line.startswith("#") or number.match(line))


ffibuilder = FFI()
for name, packed in DECLARATIONS:
    ffibuilder.cdef(declarations(name), packed=packed)
ffibuilder.set_source(
    "native._dataplane",
    "".join(f'#include "{name}"\n' for name, _ in DECLARATIONS),
    sources=sorted(str(p.relative_to(NATIVE.parent)) for p in (NATIVE / "c").glob("*.c")),
    depends=[str(p.relative_to(NATIVE.parent)) for d in ("c", "decl") for p in (NATIVE / d).glob("*.h")],
    include_dirs=["native/c", "native/decl"],
    # cffi's own generated code is not held to our warnings
    extra_compile_args=[
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-O2",
        "-g",
        "-fno-strict-aliasing",
        *shlex.split(os.environ.get("VHOSTFS_CFLAGS", "")),
    ],
    libraries=["pthread", "seccomp"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
