"""What `vhostfs serve` keeps in its sandbox.

It knows all its paths when it starts: it keeps those, no capability, no network, and maps no more code.
Where blobs come from a network, its agent fetches them, which has a sandbox of its own.
"""

from __future__ import annotations

from pathlib import Path

from rafs.cache_dir import CacheDir
from vhostfs.nydusd.config_paths import backend_files
from vhostfs.options import ServeOptions
from vhostfs.sandbox_options import SandboxOptions
from vhostfs.sandbox_policy import ALWAYS, Place, SandboxPolicy, Use, chosen_places


def serve_policy(options: ServeOptions, chosen: SandboxOptions) -> SandboxPolicy:
    """What `vhostfs serve` keeps. The cache directory is made. Raises CacheError, SandboxError."""
    CacheDir(options.cache_dir)  # it cannot be made later on
    here = Path.cwd()
    places = [
        Place(here / options.bootstrap, Use.READ),
        Place(here / options.cache_dir, Use.READ),
        *(Place(here / name, Use.READ) for name in backend_files(options.backend)),
    ]
    if options.socket is not None:
        places.append(Place((here / options.socket).parent, Use.SOCKETS))
    if options.statistics is not None:
        places.append(Place((here / options.statistics).parent, Use.OUTPUT))
    if options.trace_out is not None:
        places.append(Place((here / options.trace_out).parent, Use.OUTPUT))
    return SandboxPolicy(places=(*places, *ALWAYS, *chosen_places(chosen)), off=chosen.off)
