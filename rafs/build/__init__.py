"""The RAFS builder: a directory or an archive in, a bootstrap and a data blob out.

Reading order: `image` (the whole path), `source`, `directory`, `tar_source`, `tar_stream` (what is built),
`tree` and `growth` (the tree in memory), `chunker` (digest and compress on all cores), `chunks`
(deduplication and chunk records), `blob`, `blob_facts` and `sections` (the data blob), `layout`, `dirents`,
`xattrs` (where metadata lies), `bootstrap` (the metadata file), `v5` (that and the blob of v5), `output`
(files that appear whole or not at all). Layers: `overlay` (whiteouts), `load` (bootstraps as input), `merge`.
"""

from rafs.build.errors import BuildError
from rafs.build.image import BuildOptions, BuildResult, NoProgress, Progress, Source, build_image
from rafs.build.merge import MergeResult, merge_bootstraps
from rafs.build.overlay import Whiteouts
from rafs.build.prefetch import PrefetchPolicy
from rafs.build.tar_source import TarSource

__all__ = [
    "BuildError",
    "BuildOptions",
    "BuildResult",
    "MergeResult",
    "NoProgress",
    "PrefetchPolicy",
    "Progress",
    "Source",
    "TarSource",
    "Whiteouts",
    "build_image",
    "merge_bootstraps",
]
