"""RAFS (Nydus) images: `rafs.open` reads one; the other modules build, fetch and cache them.

Imports nothing until it is asked to, since daemons that start fast import parts of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from rafs.filesystem import Blobs, Filesystem

__all__ = ["open"]


def open(bootstrap: str | os.PathLike[str], blobs: Blobs = ()) -> Filesystem:
    """Open an image; see `rafs.filesystem`, where all of it is told.

    `bootstrap` is its metadata file. `blobs` is where its data is: a directory of files named by blob id,
    several of them, or a back-end (`rafs.backend`); without it there is only metadata.
    """
    from rafs.filesystem import open_image

    return open_image(bootstrap, blobs)
