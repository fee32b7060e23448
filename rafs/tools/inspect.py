"""What an image says of itself, as plain values: for tables, JSON and notebooks.

Everything comes from the bootstrap, but `chunks_of_blob` of v6, which reads the blob's own records.
Digests are hexadecimal, sizes and offsets in bytes.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from native import rafs_v6
from rafs.blob_record import BlobRecord, Feature
from rafs.filesystem import AnyPath, Filesystem
from rafs.image import Image, WholeImage

_FLAGS = {
    "compress none": rafs_v6.RAFS_FLAG_COMPRESS_NONE,
    "compress lz4_block": rafs_v6.RAFS_FLAG_COMPRESS_LZ4,
    "compress gzip": rafs_v6.RAFS_FLAG_COMPRESS_GZIP,
    "compress zstd": rafs_v6.RAFS_FLAG_COMPRESS_ZSTD,
    "digest blake3": rafs_v6.RAFS_FLAG_DIGEST_BLAKE3,
    "digest sha256": rafs_v6.RAFS_FLAG_DIGEST_SHA256,
    "explicit uid and gid": rafs_v6.RAFS_FLAG_EXPLICIT_UIDGID,
    "has xattrs": rafs_v6.RAFS_FLAG_HAS_XATTR,
    "inlined chunk digests": rafs_v6.RAFS_FLAG_INLINED_CHUNK_DIGEST,
    "tarfs": rafs_v6.RAFS_FLAG_TARFS,
    "encryption none": rafs_v6.RAFS_FLAG_ENCRYPTION_NONE,
    "encryption aes": rafs_v6.RAFS_FLAG_ENCRYPTION_AES,
}
_KINDS = {
    stat.S_IFREG: "files",
    stat.S_IFDIR: "directories",
    stat.S_IFLNK: "symlinks",
    stat.S_IFCHR: "character devices",
    stat.S_IFBLK: "block devices",
    stat.S_IFIFO: "fifos",
    stat.S_IFSOCK: "sockets",
}


@dataclass(frozen=True)
class BlobFacts:
    """One entry of the blob table. `used_chunks` are those that files have; shared ones count once."""

    index: int
    blob_id: str
    compressor: str
    digester: str
    features: list[str]
    chunk_count: int
    used_chunks: int
    chunk_size: int
    compressed_size: int
    uncompressed_size: int
    toc_size: int
    toc_digest: str


@dataclass(frozen=True)
class ImageFacts:
    """An image as a whole. `kinds` counts inodes; `names` counts each name of a hard link, and the root."""

    version: int
    bootstrap_size: int
    flags: list[str]
    chunk_size: int
    names: int
    inodes: int
    kinds: dict[str, int]
    data_size: int
    hard_links: int
    blobs: list[BlobFacts]
    prefetch: list[str]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class PathChunk:
    """A chunk of a file; of a hole, `blob_id` is empty."""

    file_offset: int
    size: int
    blob_id: str
    chunk_index: int
    compressed_offset: int
    compressed_size: int
    uncompressed_offset: int
    digest: str


@dataclass(frozen=True)
class PathFacts:
    """One path of an image."""

    path: str
    inode: int
    kind: str
    mode: str
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_ns: int
    links: int
    rdev: int
    target: str
    xattrs: dict[str, str]  # values in hexadecimal
    children: int
    chunks: list[PathChunk]


def inspect_image(image: Image) -> ImageFacts:
    """Walk the whole tree and say what is in it. Raises OSError, RafsError as reading does."""
    names = data_size = hard_links = 0
    kinds: Counter[str] = Counter()
    used: dict[int, set[int]] = {}
    paths: dict[int, bytes] = dict.fromkeys(image.prefetch_nids(), b"")
    seen: set[int] = set()
    whole = WholeImage(image)
    for path, inode in image.walk():
        names += 1
        if inode.nid in paths:
            paths[inode.nid] = paths[inode.nid] or path
        if inode.nid in seen:
            hard_links += 1
            continue
        seen.add(inode.nid)
        kinds[kind_of(inode.mode)] += 1
        if stat.S_ISREG(inode.mode):
            data_size += inode.size
            for extent in whole.extents(inode):
                if extent.blob_index >= 0:
                    used.setdefault(extent.blob_index, set()).add(extent.chunk_index)
    return ImageFacts(
        version=image.version,
        bootstrap_size=image.size,
        flags=[name for name, bit in _FLAGS.items() if image.flags & bit],
        chunk_size=image.chunk_size,
        names=names,
        inodes=len(seen),
        kinds=dict(kinds),
        data_size=data_size,
        hard_links=hard_links,
        blobs=[blob_facts(image.blob(i), i, len(used.get(i, ()))) for i in range(image.blob_count)],
        prefetch=[_text(path) for path in paths.values() if path],
    )


def blob_facts(record: BlobRecord, index: int, used_chunks: int) -> BlobFacts:
    """One checked entry of the blob table."""
    return BlobFacts(
        index=index,
        blob_id=record.blob_id,
        compressor=record.compressor.name.lower(),
        digester=record.digester.name.lower(),
        features=[feature.name.lower() for feature in Feature if feature in record.features and feature.name],
        chunk_count=record.chunk_count,
        used_chunks=used_chunks,
        chunk_size=record.chunk_size,
        compressed_size=record.compressed_size,
        uncompressed_size=record.uncompressed_size,
        toc_size=record.toc_size,
        toc_digest=record.toc_digest.hex() if record.toc_digest else "",
    )


def inspect_path(filesystem: Filesystem, path: AnyPath) -> PathFacts:
    """Say all about one path; where its chunks lie is asked of the blobs in v6."""
    image = filesystem.image
    inode = filesystem.stat(path)
    is_file = stat.S_ISREG(inode.mode)
    chunks = [
        PathChunk(*chunk[:7], digest=chunk.digest.hex() if chunk.digest else "")
        for chunk in (filesystem.chunks(path) if is_file else ())
    ]
    return PathFacts(
        path=_text(path) if isinstance(path, bytes) else path,
        inode=inode.nid,
        kind=kind_of(inode.mode),
        mode=stat.filemode(inode.mode),
        uid=inode.uid,
        gid=inode.gid,
        size=inode.size,
        mtime=inode.mtime,
        mtime_ns=inode.mtime_nsec,
        links=inode.nlink,
        rdev=inode.rdev,
        target=_text(image.readlink(inode.nid)) if stat.S_ISLNK(inode.mode) else "",
        xattrs={_text(name): value.hex() for name, value in image.xattrs(inode.nid).items()},
        children=len(filesystem.listdir(path)) if stat.S_ISDIR(inode.mode) else 0,
        chunks=chunks,
    )


@dataclass(frozen=True)
class StoredChunk:
    """A chunk as its blob has it."""

    index: int
    compressed_offset: int
    compressed_size: int
    uncompressed_offset: int
    uncompressed_size: int
    digest: str


def chunks_of_blob(filesystem: Filesystem, index: int) -> Iterator[StoredChunk]:
    """Yield the chunks of a blob, in order; of v5, those that files have."""
    reader = filesystem.blob(index)
    for chunk in reader.chunks():
        digest = reader.digest(chunk.chunk_idx)
        yield StoredChunk(
            chunk.chunk_idx,
            chunk.compressed_offset,
            chunk.compressed_size,
            chunk.uncompressed_offset,
            chunk.uncompressed_size,
            digest.hex() if digest else "",
        )


def kind_of(mode: int) -> str:
    """The plural of what an inode is."""
    return _KINDS[stat.S_IFMT(mode)]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
