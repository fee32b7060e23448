"""What can go wrong with an image, said by whose fault it is.

A caller that retries, switches to another mirror or gives up decides on the class, never on the text:

- `ImageCorrupt`, `ImageUnsupported`: the image. Reading it again changes nothing; pull or build it again.
- `BlobUnavailable` and below: the back-end. Another try or another mirror may help.
- `CacheError` and below: this host's cache directory. The text names the file and the remedy.
- `BackendConfigError`: what was configured about a back-end.
- `BuildError`: what was given to the builder (a source tree, an option, an output folder).

Every text names the thing (blob, chunk, file), so that a log line needs no context.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class RafsError(Exception):
    """Base of all errors of `rafs`; `fault` is "image", "back-end", "host" or "input"."""

    fault: ClassVar[str] = "image"


class ImageCorrupt(RafsError):
    """The image contradicts itself or the format."""


class ImageUnsupported(RafsError):
    """The image is well formed as far as we can tell, and uses a feature that we do not have."""


class BlobUnavailable(RafsError):
    """The back-end did not deliver; what is below says why, and `kind` says that in a word, for metrics."""

    fault: ClassVar[str] = "back-end"
    kind: ClassVar[str] = "other"


class BlobAuthError(BlobUnavailable):
    """The back-end refuses us: credentials are missing, wrong or expired, or do not reach that far."""

    kind = "auth"


class BlobNetworkError(BlobUnavailable):
    """The back-end cannot be reached, stalls, or says that it has too much to do."""

    kind = "network"


class BlobNotFound(BlobUnavailable):
    """The back-end answered that it has no such blob."""

    kind = "missing"


class BlobCorrupt(BlobUnavailable):
    """The back-end delivered bytes that do not fit the image: short, undecodable or with a wrong digest."""

    kind = "corrupt"


class CacheError(RafsError):
    """A file in the cache directory is unusable or cannot be written."""

    fault: ClassVar[str] = "host"


class CacheFull(CacheError):
    """No space or quota left in the cache directory."""


class BackendConfigError(RafsError):
    """The configuration of a back-end contradicts itself, or asks for what we cannot do. Names the field."""

    fault: ClassVar[str] = "input"


class BuildError(RafsError):
    """An image cannot be built from this input, or not be written where it was asked for."""

    fault: ClassVar[str] = "input"


def cache_error(what: str, error: OSError) -> CacheError:
    """Translate an OSError on a cache file, once, at the edge; `what` names the file and the attempt."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = f"{what}: {error.strerror or error}"
    return CacheFull(f"{text}; free some space there") if full else CacheError(text)
