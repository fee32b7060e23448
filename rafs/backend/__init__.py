"""Where blobs come from. What needs more than the standard library is imported by who makes it."""

from rafs.backend.local import LocalBackend
from rafs.backend.protocol import BlobBackend, read_exactly

__all__ = ["BlobBackend", "LocalBackend", "read_exactly"]
