"""The C data plane, typed (native/decl/dataplane.h): the names that other packages use.

What a Device serves (Image, Blobs, ChunkStore) must outlive it: close in the order Device, Blobs, Image,
ChunkStore. Calls that may wait release the interpreter's lock, as every cffi call does; those that may wait
*long* say so, and belong into a thread.
"""

from native.chunks import Blob, ChunkStore, Upcall
from native.counters import MountCounters, MountStatistics
from native.device import Device, MemoryRegion
from native.directory import CacheMode, DirectoryFacts, DirectoryOptions, FileHandles
from native.image import BLOB_RECORD, CHUNK_RECORD, Dirent, Extent, Image, ImageError, Inode
from native.link import ChunkLink, RingFds, WorkerRings
from native.session import FuseSession, InFlight, SessionTerms, adopt_session, session_terms
from native.trace import (
    MAX_TRACE_BLOBS,
    MAX_TRACE_RECORDS,
    TRACE_HEADER,
    TRACE_MAGIC,
    TRACE_MISSED,
    TRACE_RECORD,
    TRACE_VERSION,
    TraceLog,
)

__all__ = [
    "BLOB_RECORD",
    "CHUNK_RECORD",
    "MAX_TRACE_BLOBS",
    "MAX_TRACE_RECORDS",
    "TRACE_HEADER",
    "TRACE_MAGIC",
    "TRACE_MISSED",
    "TRACE_RECORD",
    "TRACE_VERSION",
    "Blob",
    "CacheMode",
    "ChunkLink",
    "ChunkStore",
    "Device",
    "DirectoryFacts",
    "DirectoryOptions",
    "Dirent",
    "Extent",
    "FileHandles",
    "FuseSession",
    "Image",
    "ImageError",
    "InFlight",
    "Inode",
    "MemoryRegion",
    "MountCounters",
    "MountStatistics",
    "RingFds",
    "SessionTerms",
    "TraceLog",
    "Upcall",
    "WorkerRings",
    "adopt_session",
    "session_terms",
]
