"""The one error of the builder is that of `rafs.errors`; it has this name too."""

from rafs.errors import BuildError as BuildError
