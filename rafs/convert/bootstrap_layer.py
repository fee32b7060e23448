"""The layer that has the bootstrap: a gzip-compressed tar (format section 1.2).

The same bootstrap gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from pathlib import Path
from typing import IO, cast

from rafs.build.output import PendingFile
from rafs.oci.descriptor import Descriptor

#: where snapshotters look for it
NAME_IN_LAYER = "image/image.boot"
_LEVEL = 6
_READ_SIZE = 1 << 20


class _Hashing:
    """What is written goes to a file; size and digest are counted."""

    def __init__(self, target: PendingFile | gzip.GzipFile) -> None:
        self._target = target
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._target.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256.hexdigest()}"


def pack_bootstrap_layer(bootstrap: Path, folder: Path, media_type: str) -> tuple[Descriptor, str, Path]:
    """Write the layer into `folder`; return its descriptor, diff id and path. Raises BuildError, OSError."""
    with PendingFile(folder, "bootstrap layer") as file:
        packed = _Hashing(file)
        with gzip.GzipFile(
            filename="", mode="wb", compresslevel=_LEVEL, fileobj=cast("IO[bytes]", packed), mtime=0
        ) as compressor:
            plain = _Hashing(compressor)
            with tarfile.open(
                fileobj=cast("IO[bytes]", plain), mode="w|", format=tarfile.USTAR_FORMAT
            ) as tar:
                folder_entry = tarfile.TarInfo(str(Path(NAME_IN_LAYER).parent))
                folder_entry.type, folder_entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(folder_entry)
                entry = tarfile.TarInfo(NAME_IN_LAYER)
                entry.mode = 0o444
                with bootstrap.open("rb") as source:
                    entry.size = os.fstat(source.fileno()).st_size
                    tar.addfile(entry, source)
        path = file.commit(f"{packed.sha256.hexdigest()}.tar.gz")
    return Descriptor(media_type, packed.digest, packed.size), plain.digest, path
