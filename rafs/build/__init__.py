"""The RAFS v6 builder: a directory in, a bootstrap and a data blob out.

Reading order: `image` (the whole path, and the only entry point), `source` and `tree` (what is
built), `chunker` (read, digest, compress on all cores), `chunks` (deduplication and chunk records),
`blob` and `sections` (the data blob), `layout`, `dirents`, `xattrs` (where metadata lies),
`bootstrap` (the metadata file), `output` (files that appear whole or not at all).
"""

from rafs.build.errors import BuildError
from rafs.build.image import BuildOptions, BuildResult, Progress, build_image

__all__ = ["BuildError", "BuildOptions", "BuildResult", "Progress", "build_image"]
