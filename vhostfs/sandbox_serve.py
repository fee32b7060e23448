"""What `vhostfs serve` keeps in its sandbox.

It knows all its paths when it starts, reads one image and writes one cache: it keeps those, no capability,
no network, and maps no code any more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rafs.cache import CacheDir
from vhostfs.options import ServeOptions
from vhostfs.sandbox_options import SandboxOptions
from vhostfs.sandbox_policy import ALWAYS, Place, SandboxPolicy, Use, chosen_places


def absolute(options: ServeOptions) -> ServeOptions:
    """The same options, whatever becomes of the working directory."""
    here = Path.cwd()
    return replace(
        options,
        bootstrap=here / options.bootstrap,
        blob_dir=here / options.blob_dir,
        cache_dir=here / options.cache_dir,
        socket=str(here / options.socket) if options.socket is not None else None,
        statistics=here / options.statistics if options.statistics is not None else None,
    )


def serve_policy(options: ServeOptions, chosen: SandboxOptions) -> SandboxPolicy:
    """What `vhostfs serve` keeps. The options' paths are absolute; the cache directory is made.

    Raises CacheError, SandboxError.
    """
    CacheDir(options.cache_dir)  # it cannot be made later on
    places = [
        Place(options.bootstrap, Use.READ),
        Place(options.blob_dir, Use.READ),
        Place(options.cache_dir, Use.WRITE),
    ]
    if options.socket is not None:
        places.append(Place(Path(options.socket).parent, Use.SOCKETS))
    if options.statistics is not None:
        places.append(Place(options.statistics.parent, Use.OUTPUT))
    return SandboxPolicy(places=(*places, *ALWAYS, *chosen_places(chosen)), off=chosen.off)
