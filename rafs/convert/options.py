"""What can be chosen about a conversion."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from rafs.build import BuildOptions
from rafs.oci.image import Platform
from rafs.oci.place import Place


class KeepOci(enum.Enum):
    """Where the original image goes, beside the converted one.

    INDEX: both are in one index, the original first. REFERRER: the name stands for the original, and the
    converted one is found as its referrer. NONE: nowhere.
    """

    NONE = "none"
    INDEX = "index"
    REFERRER = "referrer"


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """`build` says how layers are built; its whiteouts, parent and prefetch list do not matter.

    `dictionary` is a RAFS image whose chunks are referred to, in place of `build.chunk_dict`; the target must
    be able to take its blobs over. `prefetch` are paths in the image. No `platforms`: all for Linux that the
    image has. `layers_at_once` are converted at the same time.
    """

    work_dir: Path
    build: BuildOptions
    dictionary: Place | None = None
    prefetch: tuple[bytes, ...] = ()
    platforms: tuple[Platform, ...] = ()
    keep_oci: KeepOci = KeepOci.NONE
    layers_at_once: int = 4
